//! The structures of DLPack 1 as its specification (`dlpack.h`) has them, field by field.

use std::ffi::c_void;

/// The major version that these structures have. It changes where their layout does.
pub const MAJOR: u32 = 1;

/// The minor version that is given out: nothing that came later is used.
pub(super) const MINOR: u32 = 0;

/// A flag of [`DLManagedTensorVersioned`]: who takes the tensor must not write to it.
pub const READ_ONLY: u64 = 1 << 0;

/// A flag of [`DLManagedTensorVersioned`]: the producer has made a copy, which nobody else sees.
pub const IS_COPIED: u64 = 1 << 1;

/// The version of the structure that it stands in.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DLPackVersion {
    /// Changes where the layout does.
    pub major: u32,
    /// Grows with what numbers can mean.
    pub minor: u32,
}

/// A device: kind and number.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DLDevice {
    /// 1 the host, 2 CUDA, 3 the host's memory as pinned by CUDA, and many more.
    pub device_type: i32,
    /// Which one; 0 for the host.
    pub device_id: i32,
}

/// An element type.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DLDataType {
    /// 0 signed integer, 1 unsigned integer, 2 IEEE 754 float, 4 bfloat, and many more.
    pub code: u8,
    /// The bits of one number.
    pub bits: u8,
    /// The numbers of an element.
    pub lanes: u16,
}

/// A tensor, without who owns it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct DLTensor {
    /// Where its memory begins.
    pub data: *mut c_void,
    /// Where its memory is.
    pub device: DLDevice,
    /// The number of extents.
    pub ndim: i32,
    /// The type of its elements.
    pub dtype: DLDataType,
    /// `ndim` extents; may be NULL where there are none.
    pub shape: *mut i64,
    /// `ndim` strides in elements; NULL where it is dense and row-major.
    pub strides: *mut i64,
    /// How many bytes behind `data` the first element is.
    pub byte_offset: u64,
}

/// A tensor with who owns it.
#[repr(C)]
#[derive(Debug)]
pub struct DLManagedTensorVersioned {
    /// First, so that it can be read whatever follows.
    pub version: DLPackVersion,
    /// The producer's.
    pub manager_ctx: *mut c_void,
    /// Called once with this structure by who has taken it and is done. `None` where nothing has to be done.
    pub deleter: Option<unsafe extern "C" fn(*mut DLManagedTensorVersioned)>,
    /// [`READ_ONLY`], [`IS_COPIED`]; others mean nothing here.
    pub flags: u64,
    /// The tensor.
    pub dl_tensor: DLTensor,
}

/// The older form of [`DLManagedTensorVersioned`], which has no version and no flags.
#[repr(C)]
#[derive(Debug)]
pub struct DLManagedTensor {
    /// The tensor.
    pub dl_tensor: DLTensor,
    /// The producer's.
    pub manager_ctx: *mut c_void,
    /// As in the newer form.
    pub deleter: Option<unsafe extern "C" fn(*mut DLManagedTensor)>,
}

impl DLDevice {
    /// Ordinary memory of the host.
    pub const HOST: DLDevice = DLDevice { device_type: 1, device_id: 0 };

    /// Memory of the host that CUDA has pinned.
    pub const CUDA_HOST: DLDevice = DLDevice { device_type: 3, device_id: 0 };

    /// Memory of a CUDA device.
    pub const fn cuda(ordinal: u32) -> DLDevice {
        DLDevice { device_type: 2, device_id: ordinal as i32 }
    }

    /// The specification's name for it.
    pub(super) fn name(self) -> String {
        let name = match self.device_type {
            1 => "the host",
            2 => "CUDA",
            3 => "memory pinned by CUDA",
            4 => "OpenCL",
            7 => "Vulkan",
            8 => "Metal",
            9 => "VPI",
            10 => "ROCm",
            11 => "memory pinned by ROCm",
            12 => "an extension device",
            13 => "memory managed by CUDA",
            14 => "oneAPI",
            15 => "WebGPU",
            16 => "Hexagon",
            17 => "MAIA",
            18 => "Trainium",
            other => return format!("a device of the unknown kind {other}"),
        };
        name.to_owned()
    }
}

impl DLDataType {
    /// The specification's name for it.
    pub(super) fn name(self) -> String {
        let DLDataType { code, bits, lanes } = self;
        let number = match code {
            0 => format!("int{bits}"),
            1 => format!("uint{bits}"),
            2 => format!("float{bits}"),
            3 => "opaque handle".to_owned(),
            4 => format!("bfloat{bits}"),
            5 => format!("complex{bits}"),
            6 => format!("bool of {bits} bits"),
            7 => "float8_e3m4".to_owned(),
            8 => "float8_e4m3".to_owned(),
            9 => "float8_e4m3b11fnuz".to_owned(),
            10 => "float8_e4m3fn".to_owned(),
            11 => "float8_e4m3fnuz".to_owned(),
            12 => "float8_e5m2".to_owned(),
            13 => "float8_e5m2fnuz".to_owned(),
            14 => "float8_e8m0fnu".to_owned(),
            15 => "float6_e2m3fn".to_owned(),
            16 => "float6_e3m2fn".to_owned(),
            17 => "float4_e2m1fn".to_owned(),
            other => format!("unknown type with the code {other} and {bits} bits"),
        };
        if lanes == 1 { number } else { format!("vector of {lanes} times {number}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    /// The layout of the specification on machines of 64 bits.
    #[test]
    fn fields_stand_where_the_specification_has_them() {
        type Tensor = DLTensor;
        type Managed = DLManagedTensorVersioned;
        let tensor = [
            offset_of!(Tensor, data),
            offset_of!(Tensor, device),
            offset_of!(Tensor, ndim),
            offset_of!(Tensor, dtype),
            offset_of!(Tensor, shape),
            offset_of!(Tensor, strides),
            offset_of!(Tensor, byte_offset),
            size_of::<Tensor>(),
        ];
        assert_eq!(tensor, [0, 8, 16, 20, 24, 32, 40, 48]);
        let managed = [
            offset_of!(Managed, version),
            offset_of!(Managed, manager_ctx),
            offset_of!(Managed, deleter),
            offset_of!(Managed, flags),
            offset_of!(Managed, dl_tensor),
            size_of::<Managed>(),
        ];
        assert_eq!(managed, [0, 8, 16, 24, 32, 80]);
        let older = [
            offset_of!(DLManagedTensor, dl_tensor),
            offset_of!(DLManagedTensor, manager_ctx),
            offset_of!(DLManagedTensor, deleter),
            size_of::<DLManagedTensor>(),
        ];
        assert_eq!(older, [0, 48, 56, 64]);
        assert_eq!((size_of::<DLDataType>(), size_of::<DLDevice>(), size_of::<DLPackVersion>()), (4, 8, 8));
    }
}

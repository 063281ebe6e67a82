//! Who releases what, and when: once, in whatever order leases and arrays go, on whatever thread.

use crate::hand::{Calls, Parts, array, floats, full_schema, i32s, schema};
use ringfold::ErrorKind;
use ringfold::arrow::array::{Array, Float32Array};
use ringfold::arrow::c_data::{self, ArrowDeviceArray, DeviceType, Lent};

/// An array lent, what it is lent from, and how often that was released.
fn lent(array: &mut c_data::Exported<c_data::ArrowArray>) -> Lent {
    // SAFETY: made by hand, and alive until the end of the test.
    unsafe { c_data::lend(array.as_mut_ptr(), schema(b"f", vec![]).as_ptr()) }.unwrap()
}

#[test]
fn a_lease_that_is_dropped_gives_the_array_back() {
    let calls = Calls::default();
    let mut array = floats(&[1.0, 2.0], &calls);
    let lent = lent(&mut array);
    assert!(lent.lease.in_use());
    assert_eq!(lent.array.as_ref(), &Float32Array::from(vec![1.0, 2.0]) as &dyn Array);
    drop(lent);
    assert!(array.release.is_some());
    assert_eq!(calls.count(), 0);
    drop(array);
    assert_eq!(calls.count(), 1);
}

#[test]
fn an_array_can_be_lent_again_and_again() {
    let calls = Calls::default();
    let mut array = floats(&[1.0, 2.0], &calls);
    for _ in 0..3 {
        assert_eq!(lent(&mut array).array.len(), 2);
    }
    let (imported, _) = lent(&mut array).take().unwrap();
    drop(array);
    assert_eq!(calls.count(), 0);
    drop(imported);
    assert_eq!(calls.count(), 1);
}

#[test]
fn a_taken_array_is_released_by_the_last_reference() {
    let calls = Calls::default();
    let mut array = floats(&[1.0, 2.0, 3.0], &calls);
    let (imported, field) = lent(&mut array).take().unwrap();
    assert!(array.release.is_none());
    assert_eq!(field.name(), "field");
    let slice = imported.slice(1, 2);
    drop(imported);
    drop(array);
    assert_eq!(calls.count(), 0);
    assert_eq!(slice.as_ref(), &Float32Array::from(vec![2.0, 3.0]) as &dyn Array);
    let buffer = slice.to_data().buffers()[0].clone();
    drop(slice);
    assert_eq!(calls.count(), 0);
    drop(buffer);
    assert_eq!(calls.count(), 1);
}

#[test]
fn a_lease_taken_after_its_array_releases_at_once() {
    let calls = Calls::default();
    let mut array = floats(&[1.0], &calls);
    let Lent { array: imported, lease, .. } = lent(&mut array);
    drop(imported);
    assert!(!lease.in_use());
    lease.take().unwrap();
    assert!(array.release.is_none());
    assert_eq!(calls.count(), 1);
    drop(array);
    assert_eq!(calls.count(), 1);
}

#[test]
fn an_array_that_outlives_its_lease_is_moved_instead_of_dangling() {
    let calls = Calls::default();
    let mut array = floats(&[4.0, 5.0], &calls);
    let Lent { array: imported, lease, .. } = lent(&mut array);
    drop(lease);
    assert!(array.release.is_none(), "the memory is still referred to");
    drop(array);
    assert_eq!(calls.count(), 0);
    assert_eq!(imported.as_ref(), &Float32Array::from(vec![4.0, 5.0]) as &dyn Array);
    drop(imported);
    assert_eq!(calls.count(), 1);
}

#[test]
fn leases_and_arrays_may_end_on_other_threads() {
    for take in [false, true] {
        let calls = Calls::default();
        let mut array = floats(&[1.0; 64], &calls);
        let Lent { array: imported, lease, .. } = lent(&mut array);
        let readers: Vec<_> = (0..4)
            .map(|_| {
                let imported = imported.clone();
                std::thread::spawn(move || assert_eq!(imported.len(), 64))
            })
            .collect();
        drop(imported);
        std::thread::spawn(move || {
            if take {
                lease.take().unwrap();
                readers.into_iter().for_each(|reader| reader.join().unwrap());
            } else {
                readers.into_iter().for_each(|reader| reader.join().unwrap());
                drop(lease);
            }
        })
        .join()
        .unwrap();
        assert_eq!(array.release.is_none(), take);
        assert_eq!(calls.count(), usize::from(take));
        drop(array);
        assert_eq!(calls.count(), 1);
    }
}

#[test]
fn a_structure_lent_twice_is_taken_once() {
    let calls = Calls::default();
    let mut array = floats(&[1.0], &calls);
    let (first, second) = (lent(&mut array), lent(&mut array));
    let Lent { array: imported, lease, .. } = second;
    drop(imported);
    let (kept, _) = first.take().unwrap();
    let error = lease.take().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.message().contains("moved or released while it was lent"), "{error}");
    drop(kept);
    assert_eq!(calls.count(), 1);
}

#[test]
fn arrays_without_buffers_have_leases_too() {
    let calls = Calls::default();
    let mut nulls = array(Parts { length: 7, null_count: 7, ..Parts::default() }, &calls);
    // SAFETY: made by hand, and alive until the end of the test.
    let lent = unsafe { c_data::lend(nulls.as_mut_ptr(), schema(b"n", vec![]).as_ptr()) }.unwrap();
    assert_eq!(lent.array.len(), 7);
    assert!(!lent.lease.in_use());
    let (imported, _) = lent.take().unwrap();
    assert_eq!(calls.count(), 1);
    assert_eq!(imported.len(), 7);
}

#[test]
fn one_reference_to_a_child_keeps_the_whole() {
    let calls = Calls::default();
    let children = vec![floats(&[1.0, 2.0], &calls), floats(&[3.0, 4.0], &calls)];
    let parts = Parts { length: 2, buffers: vec![None], children, ..Parts::default() };
    let mut array = array(parts, &calls);
    let schema = schema(b"+s", vec![schema(b"f", vec![]), schema(b"f", vec![])]);
    // SAFETY: made by hand, and alive until the end of the test.
    let (imported, field) = unsafe { c_data::import(array.as_mut_ptr(), schema.as_ptr()) }.unwrap();
    let batch = c_data::to_batch(&imported, &field).unwrap();
    drop(imported);
    let second = batch.column(1).clone();
    drop(batch);
    assert_eq!(calls.count(), 0);
    assert_eq!(second.as_ref(), &Float32Array::from(vec![3.0, 4.0]) as &dyn Array);
    drop(second);
    assert_eq!(calls.count(), 3);
    assert!(schema.release.is_some(), "schemas are only read");
}

#[test]
fn a_dictionary_is_released_with_its_keys() {
    let calls = Calls::default();
    let dictionary = Some(floats(&[0.5, 1.5], &calls));
    let parts = Parts { length: 3, buffers: vec![None, i32s(&[1, 0, 1])], dictionary, ..Parts::default() };
    let mut array = array(parts, &calls);
    let schema = full_schema(b"i", vec![], Some(schema(b"f", vec![])), Vec::new());
    // SAFETY: made by hand, and alive until the end of the test.
    let (imported, _) = unsafe { c_data::import(array.as_mut_ptr(), schema.as_ptr()) }.unwrap();
    assert_eq!(imported.len(), 3);
    drop(imported);
    assert_eq!(calls.count(), 2);
}

#[test]
fn misaligned_memory_is_copied_and_released_early() {
    let calls = Calls::default();
    let buffer = [1.0f32, 2.0].iter().flat_map(|value| value.to_ne_bytes()).collect();
    let parts = Parts { length: 2, buffers: vec![None, Some((buffer, 1))], ..Parts::default() };
    let mut array = array(parts, &calls);
    let (imported, _) = lent(&mut array).take().unwrap();
    assert_eq!(calls.count(), 1);
    assert_eq!(imported.as_ref(), &Float32Array::from(vec![1.0, 2.0]) as &dyn Array);
}

#[test]
fn what_an_export_holds_outlives_its_source_and_is_released_once() {
    let column = Float32Array::from(vec![1.0, 2.0]);
    let weight = column.values().inner().strong_count();
    let field = ringfold::arrow::schema::Field::new("x", column.data_type().clone(), false);
    let (array, schema) = c_data::export(&column, &field).unwrap();
    assert_eq!(column.values().inner().strong_count(), weight + 1);
    let raw = array.into_raw();
    assert_eq!(column.values().inner().strong_count(), weight + 1);
    // SAFETY: the structure came out of an export above.
    drop(unsafe { c_data::Exported::new(raw) });
    assert_eq!(column.values().inner().strong_count(), weight);
    drop(schema);
}

#[test]
fn device_arrays_are_taken_from_the_cpu_only() {
    let calls = Calls::default();
    let on = |device_type: i32, sync_event: *mut std::ffi::c_void| {
        let mut device = ArrowDeviceArray {
            array: floats(&[1.0], &calls).into_raw(),
            device_id: 3,
            device_type,
            sync_event,
            reserved: [0; 3],
        };
        // SAFETY: made by hand, and alive until the end of this closure.
        let lent = unsafe { c_data::lend_device(&mut device, schema(b"f", vec![]).as_ptr()) };
        let result = lent.map(|lent| lent.array.len());
        // SAFETY: the structure was given back, or never lent.
        drop(unsafe { c_data::Exported::new(device.array) });
        result
    };
    assert_eq!(on(1, std::ptr::null_mut()).unwrap(), 1);
    // What CUDA has pinned is memory of the CPU, too.
    assert_eq!(on(3, std::ptr::null_mut()).unwrap(), 1);
    for (number, name) in [(2, "CUDA"), (10, "ROCM"), (77, "device type 77")] {
        let error = on(number, std::ptr::null_mut()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains(&format!("{name} (device 3)")), "{error}");
        assert_eq!(DeviceType(number).to_string(), name);
    }
    assert_eq!(on(1, std::ptr::without_provenance_mut(8)).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(calls.count(), 6);
    // SAFETY: NULL is refused.
    let error = unsafe { c_data::lend_device(std::ptr::null_mut(), std::ptr::null()) }.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn arrays_on_devices_are_described_as_tensors() {
    use ringfold::DType;
    use ringfold::tensor::Device;
    let calls = Calls::default();
    type Change = fn(&mut ArrowDeviceArray);
    let view = |format: &[u8], change: Change| {
        let mut device = ArrowDeviceArray {
            array: floats(&[1.0, 2.0, 3.0], &calls).into_raw(),
            device_id: 3,
            device_type: 2,
            sync_event: std::ptr::null_mut(),
            reserved: [0; 3],
        };
        let (length, offset, nulls) = (device.array.length, device.array.offset, device.array.null_count);
        change(&mut device);
        // SAFETY: made by hand, and alive until the end of this closure; nobody looks at what is on the device.
        let viewed = unsafe { c_data::view_device(&device, schema(format, vec![]).as_ptr()) };
        // SAFETY: two buffers are what an array of numbers has.
        let values = unsafe { *device.array.buffers.add(1) };
        let told = viewed.map(|tensor| {
            let from = tensor.pointer() as usize - values as usize;
            (tensor.device(), tensor.dtype(), tensor.count(), from)
        });
        (device.array.length, device.array.offset, device.array.null_count) = (length, offset, nulls);
        // SAFETY: the structure was never lent.
        drop(unsafe { c_data::Exported::new(device.array) });
        told
    };
    assert_eq!(view(b"f", |_| ()).unwrap(), (Device::Cuda(3), DType::F32, 3, 0));
    let sliced: Change = |device| (device.array.offset, device.array.length) = (1, 2);
    assert_eq!(view(b"f", sliced).unwrap(), (Device::Cuda(3), DType::F32, 2, 4));
    assert_eq!(view(b"f", |device| device.device_type = 3).unwrap().0, Device::Host);
    assert_eq!(view(b"i", |device| device.device_type = 1).unwrap().1, DType::I32);
    let refused: [(&[u8], Change, ErrorKind, &str); 6] = [
        (b"f", |device| device.device_type = 10, ErrorKind::Unsupported, "ROCM (device 3)"),
        (b"f", |device| device.device_id = -1, ErrorKind::InvalidArgument, "CUDA device -1"),
        (
            b"f",
            |device| device.sync_event = std::ptr::without_provenance_mut(8),
            ErrorKind::Unsupported,
            "event",
        ),
        (b"u", |_| (), ErrorKind::Unsupported, "no type of numbers"),
        (b"f", |device| device.array.length = -1, ErrorKind::InvalidArgument, "length -1"),
        (b"f", |device| device.array.offset = i64::MAX, ErrorKind::InvalidArgument, "offset"),
    ];
    for (format, change, kind, says) in refused {
        let error = view(format, change).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    assert_eq!(calls.count(), 10);
}

//! Where a call's memory is, and what its options say of that: what backends of devices are told.

use super::Options;
use super::line::Line;
use super::tensors::Tensors;
use crate::error::{Error, Result};
use crate::tensor::{Device, Stream};

/// Where a call's memory is. Mostly on the host, with nothing more to say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Site {
    pub(super) device: Device,
    pub(super) stream: Option<Stream>,
    pub(super) staged: bool,
    /// Whether it is the library's own, and used for something else after the call.
    pub(super) reused: bool,
}

impl Site {
    /// The site of a call over tensors that have been [checked](Tensors::check_places).
    #[inline]
    pub(super) fn of(tensors: &Tensors<'_>, options: &Options) -> Self {
        Site {
            device: tensors.device(),
            stream: options.stream,
            staged: options.staging.unwrap_or_default(),
            reused: options.reused,
        }
    }
}

impl Tensors<'_> {
    /// The devices of input and output; the host's of one that is empty.
    pub(super) fn places(&self) -> (Device, Device) {
        let of = |device, count| if count == 0 { Device::Host } else { device };
        match self {
            Tensors::InPlace(tensor) => {
                let place = of(tensor.device(), tensor.count());
                (place, place)
            }
            Tensors::Apart(input, output) => {
                (of(input.device(), input.count()), of(output.device(), output.count()))
            }
        }
    }

    /// The device that they are on, of tensors that are all on one.
    #[inline]
    pub(super) fn device(&self) -> Device {
        match self.places() {
            (Device::Host, other) => other,
            (device, _) => device,
        }
    }

    /// Fails where the backend of this line cannot reach them.
    #[inline]
    pub(super) fn check_places(&self, line: &Line) -> Result<()> {
        match self.places() {
            (Device::Host, Device::Host) => Ok(()),
            (input, output) => out_of_reach(input, output, line, self.lens()),
        }
    }
}

#[cold]
fn out_of_reach(input: Device, output: Device, line: &Line, (reads, writes): (usize, usize)) -> Result<()> {
    let name = line.backend;
    if !line.works_on_devices {
        let (role, place) = if input == Device::Host { ("output", output) } else { ("input", input) };
        let text = format!("the {role} is in {place}, and the backend {name} works on the host's");
        return Err(Error::unsupported(text).remedy(
            "allow Options::staging on all ranks and call a verb that blocks, copy the tensor to the host first, or form the group \
             with the backend nccl",
        ));
    }
    if input != output && reads > 0 && writes > 0 {
        let text = format!(
            "the input is in {input} and the output in {output}, and the backend {name} works on one device at a time"
        );
        return Err(Error::unsupported(text).remedy("pass tensors of one device"));
    }
    Ok(())
}

#[cfg(test)]
#[path = "site_tests.rs"]
mod tests;

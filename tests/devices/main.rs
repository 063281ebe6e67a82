//! Devices: assignments over invented and described machines, claims among real processes, discovery.

mod claims;
mod described;
mod discovery;
mod groups;
mod machines;
mod nvml;
mod oracle;
mod properties;
mod refusals;

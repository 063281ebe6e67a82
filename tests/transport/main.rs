//! What every transport promises, asked of all of them, and what each promises beyond that.

mod channel;
mod program;
mod shm;
mod sim;
mod suite;
mod tcp;
mod tcp_intruders;
mod tcp_lines;

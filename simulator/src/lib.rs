//! Doubles of a XenServer pool, CloudStack and OpenStack on loopback, with the traps of the real servers.

pub mod openstack;
mod sim;
pub mod xen;

pub use sim::{Ready, ReadyCloudStack, ReadyOpenStack, ReadyXen, Simulator, SimulatorBuilder};

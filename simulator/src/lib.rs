//! Doubles of a XenServer pool, CloudStack and OpenStack on loopback, with the traps of the real servers.

pub mod openstack;

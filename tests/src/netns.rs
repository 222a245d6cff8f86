//! The network namespace that the suite runs in, and the part of it that a test takes.
//!
//! `tests/in-namespace.sh` enters it before the suite starts. Loopback addresses (127.0.0.0/8) work in it as outside.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Result, bail};

/// What `tests/in-namespace.sh` says: "inside", or why not.
const VARIABLE: &str = "POINTSMAN_NETNS";

/// A /24 that belongs to whoever took it: every address of it can be bound, none is a loopback address.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    third: u8,
}

impl Network {
    /// Takes the next one; there are 255 in a process. Fails, with the mend, outside of the namespace.
    pub fn take() -> Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        require()?;
        match u8::try_from(NEXT.fetch_add(1, Ordering::Relaxed)) {
            Ok(third) => Ok(Self { third }),
            Err(_) => bail!("all 255 networks are taken: let tests share a namespace of Kubernetes, or take fewer"),
        }
    }

    /// One of its addresses.
    pub fn ip(self, host: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 200, self.third, host))
    }

    /// One of its addresses, with a port.
    pub fn address(self, host: u8, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(host), port)
    }
}

/// Memory of this process alone, as a folder: it vanishes with the namespace, even when nobody clears it up.
pub fn memory() -> Result<&'static Path> {
    require()?;
    Ok(Path::new("/dev/shm"))
}

/// Fails, with the mend, outside of the namespace.
pub fn require() -> Result<()> {
    match std::env::var(VARIABLE).as_deref() {
        Ok("inside") => Ok(()),
        Ok(why) => bail!(
            "this test needs a network namespace, which this machine refuses ({why}).\n\
             On Ubuntu 23.10 and later: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0\n\
             In a container: run it with --cap-add SYS_ADMIN, or --security-opt seccomp=unconfined.\n\
             When `ip`, `unshare` or `mount` is not found: apt-get install iproute2 util-linux mount"
        ),
        Err(_) => bail!(
            "this test needs a network namespace: run it through cargo, whose runner enters one, \
             or run tests/in-namespace.sh PROGRAM ARGUMENTS"
        ),
    }
}

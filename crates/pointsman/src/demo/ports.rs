//! Free ports for the children.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Result, bail};

/// Below the ports that systems give to outgoing connections, so that nothing takes them between a picker and the next.
const RANGE: std::ops::Range<u16> = 15_000..32_000;

/// So many different loopback addresses where nothing listens at present.
pub(super) fn free<const N: usize>() -> Result<[SocketAddr; N]> {
    let width = usize::from(RANGE.end - RANGE.start);
    let first = RandomState::new().hash_one(std::process::id()) as usize % width;
    let mut found = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    let mut count = 0;
    for step in 0..width {
        if count == N {
            break;
        }
        let port = RANGE.start + ((first + step) % width) as u16;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            found[count] = address;
            count += 1;
        }
    }
    if count < N {
        bail!(
            "only {count} of {N} ports between {} and {} are free on {}",
            RANGE.start,
            RANGE.end,
            Ipv4Addr::LOCALHOST
        );
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_are_given_can_all_be_taken() {
        let ports: [SocketAddr; 9] = free().unwrap();
        let _taken: Vec<TcpListener> = ports.iter().map(|port| TcpListener::bind(port).unwrap()).collect();
    }
}

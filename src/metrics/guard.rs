//! Which addresses may be asked. Whoever may write a Rollout may write a URL that the controller then reads, so what only the controller
//! (or its node) can reach must not be reachable through it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use thiserror::Error;

/// Which addresses may be asked, besides those that are always refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allow {
    /// The controller's own host: for development and demonstrations, where everything runs on one machine.
    pub loopback: bool,
}

/// An address that may not be asked.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{address} may not be asked: it is {what}")]
pub struct Forbidden {
    pub address: IpAddr,
    pub what: &'static str,
}

/// Cloud providers' metadata services outside of the link-local networks.
const METADATA: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// Why an address may not be asked; `None` if it may.
pub fn forbidden(address: IpAddr, allow: &Allow) -> Option<Forbidden> {
    let what = match inner(address) {
        ip if METADATA.contains(&ip) => "a metadata service",
        ip if ip.is_loopback() && !allow.loopback => "the controller's own host",
        ip if ip.is_unspecified() => "no address of a host",
        ip if ip.is_multicast() => "a multicast address",
        IpAddr::V4(ip) if ip.is_link_local() => "link-local (where metadata services live)",
        IpAddr::V4(ip) if ip.is_broadcast() => "a broadcast address",
        IpAddr::V6(ip) if ip.is_unicast_link_local() => "link-local (where metadata services live)",
        _ => return None,
    };
    Some(Forbidden { address, what })
}

/// The IPv4 address that an IPv6 address stands for (mapped, compatible, NAT64, 6to4), or the address itself.
fn inner(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let last = |segments: [u16; 2]| {
        let [[a, b], [c, d]] = segments.map(u16::to_be_bytes);
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, a, b] | [0x64, 0xff9b, 0, 0, 0, 0, a, b] | [0x2002, a, b, ..] => last([a, b]),
        [0, 0, 0, 0, 0, 0, a, b] if a != 0 => last([a, b]),
        _ => address,
    }
}

/// Resolves names, and refuses addresses that may not be asked: what is connected to is what was checked.
pub struct Resolver {
    pub allow: Allow,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow = self.allow;
        Box::pin(async move {
            let addresses = lookup(name.as_str(), &allow).await?;
            Ok(Box::new(addresses.into_iter().map(|ip| SocketAddr::new(ip, 0))) as Addrs)
        })
    }
}

/// The addresses of a name; an error if it has none, or one that may not be asked.
pub async fn lookup(name: &str, allow: &Allow) -> Result<Vec<IpAddr>, Box<dyn std::error::Error + Send + Sync>> {
    let addresses: Vec<_> = tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect();
    if let Some(forbidden) = addresses.iter().find_map(|address| forbidden(*address, allow)) {
        return Err(Box::new(forbidden));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_services_and_the_controllers_host_are_refused() {
        for address in [
            "169.254.169.254",
            "169.254.170.2",
            "fe80::1",
            "febf::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "::ffff:169.254.169.254",
            "::ffff:127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "::169.254.169.254",
        ] {
            assert!(forbidden(address.parse().unwrap(), &Allow::default()).is_some(), "{address}");
        }
    }

    #[test]
    fn clusters_and_the_internet_may_be_asked() {
        for address in ["10.0.0.1", "172.16.3.4", "192.168.1.1", "100.64.0.1", "8.8.8.8", "fd12::1", "2606:4700::1111", "::ffff:10.0.0.1"] {
            assert_eq!(forbidden(address.parse().unwrap(), &Allow::default()), None, "{address}");
        }
        let loopback = Allow { loopback: true };
        assert_eq!(forbidden("127.0.0.1".parse().unwrap(), &loopback), None);
        assert!(forbidden("169.254.169.254".parse().unwrap(), &loopback).is_some());
        assert!(forbidden("0.0.0.0".parse().unwrap(), &loopback).is_some());
    }

    #[tokio::test]
    async fn names_are_resolved_before_they_are_judged() {
        let error = lookup("localhost", &Allow::default()).await.unwrap_err();
        assert!(error.to_string().contains("the controller's own host"), "{error}");
        assert!(!lookup("localhost", &Allow { loopback: true }).await.unwrap().is_empty());
    }
}

//! Which addresses may be asked. Whoever may write a Rollout may write a URL that the controller then reads, so what only the controller
//! (or its node) can reach must not be reachable through it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use thiserror::Error;

/// Which addresses may be asked, besides those that are always refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allow {
    /// The controller's own host: for development and demonstrations, where everything runs on one machine.
    pub loopback: bool,
    /// Only these. Empty: all.
    pub only: Arc<[Place]>,
}

/// Hosts that may be asked: a name as it is written in a URL, or a network in which all addresses of a host lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `prometheus.monitoring`
    Host(String),
    /// `*.monitoring.svc`: names that end so, with at least one label more. Held without the star.
    Below(String),
    /// `10.0.0.0/8`, or a single address.
    Network(IpNet),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Network(address.into()));
        }
        if text.contains('/') {
            return text
                .parse()
                .map(|network: IpNet| Self::Network(network.trunc()))
                .map_err(|_| format!("{text:?} is not a network: write 10.0.0.0/8"));
        }
        let (below, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
        let is_label = |label: &str| !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
        if !normal(name).split('.').all(is_label) {
            return Err(format!(
                "{text:?} is no host, no pattern and no network: write prometheus.monitoring, *.monitoring.svc or 10.0.0.0/8"
            ));
        }
        Ok(if below { Self::Below(format!(".{}", normal(name))) } else { Self::Host(normal(name)) })
    }
}

impl Place {
    fn holds(&self, host: &str, address: IpAddr) -> bool {
        match self {
            Self::Host(name) => normal(host) == *name,
            Self::Below(end) => normal(host).strip_suffix(end.as_str()).is_some_and(|label| !label.is_empty()),
            Self::Network(network) => network.contains(&address.to_canonical()),
        }
    }
}

/// A name as names are compared.
fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

impl Allow {
    /// Why a host that a user has written may not be asked at one of its addresses; `None` if it may.
    pub fn refuses(&self, host: &str, address: IpAddr) -> Option<Forbidden> {
        let allowed = self.only.is_empty() || self.only.iter().any(|place| place.holds(host, address));
        let what = "not among the addresses that this installation allows (analysis.allowedAddresses of its chart)";
        self.refuses_pod(address).or_else(|| (!allowed).then_some(Forbidden { address, what }))
    }

    /// Why a pod may not be asked; `None` if it may.
    pub fn refuses_pod(&self, address: IpAddr) -> Option<Forbidden> {
        forbidden(address, self.loopback)
    }
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
pub fn forbidden(address: IpAddr, loopback: bool) -> Option<Forbidden> {
    let what = match inner(address) {
        ip if METADATA.contains(&ip) => "a metadata service",
        ip if ip.is_loopback() && !loopback => "the controller's own host",
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
        let allow = self.allow.clone();
        Box::pin(async move {
            let addresses = lookup(name.as_str(), &allow).await?;
            Ok(Box::new(addresses.into_iter().map(|ip| SocketAddr::new(ip, 0))) as Addrs)
        })
    }
}

/// The addresses of a name; an error if it has none, or one that may not be asked.
pub async fn lookup(name: &str, allow: &Allow) -> Result<Vec<IpAddr>, Box<dyn std::error::Error + Send + Sync>> {
    let addresses: Vec<_> = tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect();
    if let Some(forbidden) = addresses.iter().find_map(|address| allow.refuses(name, *address)) {
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
            assert!(forbidden(address.parse().unwrap(), false).is_some(), "{address}");
        }
    }

    #[test]
    fn clusters_and_the_internet_may_be_asked() {
        for address in ["10.0.0.1", "172.16.3.4", "192.168.1.1", "100.64.0.1", "8.8.8.8", "fd12::1", "2606:4700::1111", "::ffff:10.0.0.1"] {
            assert_eq!(forbidden(address.parse().unwrap(), false), None, "{address}");
        }
        assert_eq!(forbidden("127.0.0.1".parse().unwrap(), true), None);
        assert!(forbidden("169.254.169.254".parse().unwrap(), true).is_some());
        assert!(forbidden("0.0.0.0".parse().unwrap(), true).is_some());
    }

    #[tokio::test]
    async fn names_are_resolved_before_they_are_judged() {
        let error = lookup("localhost", &Allow::default()).await.unwrap_err();
        assert!(error.to_string().contains("the controller's own host"), "{error}");
        assert!(!lookup("localhost", &Allow { loopback: true, ..Allow::default() }).await.unwrap().is_empty());
    }

    #[test]
    fn allowed_addresses_narrow_by_name_and_by_network() {
        let allow = |places: &[&str]| Allow { only: places.iter().map(|place| place.parse().unwrap()).collect(), ..Allow::default() };
        let refuses = |allow: &Allow, host: &str, address: &str| allow.refuses(host, address.parse().unwrap()).is_some();
        let some = allow(&["prometheus.monitoring", "*.metrics.svc", "10.1.0.0/16", "fd12::/64", "192.0.2.7"]);
        for (host, address) in [
            ("prometheus.monitoring", "8.8.8.8"),
            ("Prometheus.Monitoring.", "8.8.8.8"),
            ("a.metrics.svc", "8.8.8.8"),
            ("a.b.metrics.svc", "8.8.8.8"),
            ("elsewhere", "10.1.2.3"),
            ("elsewhere", "::ffff:10.1.2.3"),
            ("10.1.2.3", "10.1.2.3"),
            ("elsewhere", "fd12::5"),
            ("elsewhere", "192.0.2.7"),
        ] {
            assert!(!refuses(&some, host, address), "{host} {address}");
        }
        for (host, address) in [
            ("prometheus.monitoring.svc", "8.8.8.8"),
            ("prometheus.monitoring.evil", "8.8.8.8"),
            ("evil-prometheus.monitoring", "8.8.8.8"),
            ("metrics.svc", "8.8.8.8"),
            (".metrics.svc", "8.8.8.8"),
            ("xmetrics.svc", "8.8.8.8"),
            ("10.1.0.1", "10.2.0.1"),
            ("elsewhere", "10.2.0.1"),
            ("elsewhere", "2002:a01:203::1"),
            ("prometheus.monitoring", "169.254.169.254"),
        ] {
            assert!(refuses(&some, host, address), "{host} {address}");
        }
        assert!(!refuses(&allow(&[]), "anything", "8.8.8.8"), "none named: all");
        assert!(refuses(&allow(&["0.0.0.0/0"]), "metadata", "169.254.169.254"), "what is always refused stays so");
        assert_eq!(some.refuses_pod("10.9.9.9".parse().unwrap()), None, "nobody has written a pod's address");
    }

    #[test]
    fn places_are_understood_or_refused() {
        for wrong in ["", "*", "*.", "a b", "http://prometheus", "prometheus:9090", "10.0.0.0/33", "a/8", "a..b", "*.*.svc", "[fd12::1]"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong:?}");
        }
        assert_eq!("10.1.2.3/8".parse(), "10.0.0.0/8".parse::<Place>());
        assert_eq!("Prometheus.Monitoring.".parse(), Ok(Place::Host("prometheus.monitoring".into())));
    }
}

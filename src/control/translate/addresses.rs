//! Which addresses a Gateway is served at: those of the settings, or one of its own from a pool. Pure.
//!
//! A Gateway keeps its address as long as it lives: what its status shows comes first, then what is remembered, then what
//! is free. Older Gateways choose before newer ones, but take nothing from them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use gateway_api::apis::standard::gateways::Gateway;

use super::Options;
use super::reading::Reading;
use crate::model::{GatewayAddress, ObjectName};

/// Addresses from the first to the last, both included and of the same family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddressRange {
    /// The lowest.
    pub first: IpAddr,
    /// The highest.
    pub last: IpAddr,
}

impl AddressRange {
    fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && (self.first..=self.last).contains(&address)
    }

    /// Its lowest address that is not taken.
    fn free(&self, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let mut address = self.first;
        while taken.contains(&address) {
            if address >= self.last {
                return None;
            }
            address = next(address)?;
        }
        Some(address)
    }
}

fn next(address: IpAddr) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(it) => IpAddr::V4(it.to_bits().checked_add(1)?.into()),
        IpAddr::V6(it) => IpAddr::V6(it.to_bits().checked_add(1)?.into()),
    })
}

/// Where the listeners of a Gateway are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Sockets {
    /// Where the settings say; other Gateways and Ingresses are there, too.
    Shared,
    /// At these addresses; none, if it got none.
    Own(Vec<IpAddr>),
}

/// What a Gateway got.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Assigned {
    pub sockets: Sockets,
    /// It asks for something that does not exist here: nothing of it is served.
    pub unsupported: Option<(String, String)>,
    /// Reason and text of what it asks for and did not get.
    pub lacking: Option<(&'static str, String)>,
}

/// Addresses by Gateway, as they were given.
pub(super) type Held = BTreeMap<ObjectName, Vec<IpAddr>>;

/// What `spec.addresses` asks for.
struct Wish {
    /// These addresses.
    exact: Vec<IpAddr>,
    /// One, whichever it is.
    any: bool,
    /// Field and problem of the first entry that asks for something else.
    unsupported: Option<(String, String)>,
}

fn wish(gateway: &Gateway) -> Wish {
    let written = gateway.spec.addresses.as_deref().unwrap_or_default();
    let mut wish = Wish { exact: Vec::new(), any: written.is_empty(), unsupported: None };
    for (index, address) in written.iter().enumerate() {
        let kind = address.r#type.as_deref().unwrap_or("IPAddress");
        let value = address.value.as_deref().unwrap_or_default();
        let problem = if kind != "IPAddress" {
            format!("addresses of type {kind} are not supported")
        } else if value.is_empty() {
            wish.any = true;
            continue;
        } else if let Ok(ip) = value.parse() {
            if !wish.exact.contains(&ip) {
                wish.exact.push(ip);
            }
            continue;
        } else {
            format!("`{value}` is not an IP address")
        };
        wish.unsupported.get_or_insert((format!("spec.addresses[{index}]"), problem));
    }
    wish
}

/// What each of `gateways` gets, which are those of ours, the oldest first. `held` is what they had, and then what they have.
pub(super) fn assign(
    pool: &[AddressRange],
    gateways: &[(&ObjectName, &Gateway)],
    held: &mut Held,
) -> BTreeMap<ObjectName, Assigned> {
    let mut taken = BTreeSet::new();
    let mut now = Held::new();
    let wishes: Vec<_> = gateways.iter().map(|(name, gateway)| (*name, *gateway, wish(gateway))).collect();
    let in_pool = |address: &IpAddr| pool.iter().any(|range| range.contains(*address));
    // What they have and still want.
    for (name, gateway, wish) in wishes.iter().filter(|(.., wish)| !pool.is_empty() && wish.unsupported.is_none()) {
        let before = shown(gateway).into_iter().chain(held.get(*name).into_iter().flatten().copied());
        let mut any = wish.any;
        for address in before.filter(in_pool) {
            let wanted = wish.exact.contains(&address) || std::mem::take(&mut any);
            if wanted && taken.insert(address) {
                now.entry((*name).clone()).or_default().push(address);
            } else if wanted && !wish.exact.contains(&address) {
                any = true;
            }
        }
    }
    let mut all = BTreeMap::new();
    for (name, _, wish) in wishes {
        let assigned = if let Some(unsupported) = wish.unsupported {
            Assigned { sockets: Sockets::Own(Vec::new()), unsupported: Some(unsupported), lacking: None }
        } else if pool.is_empty() {
            let sockets = if wish.exact.is_empty() { Sockets::Shared } else { Sockets::Own(wish.exact) };
            Assigned { sockets, unsupported: None, lacking: None }
        } else {
            let mut own = now.remove(name).unwrap_or_default();
            let lacking = complete(pool, &wish, &mut own, &mut taken);
            now.insert(name.clone(), own.clone());
            Assigned { sockets: Sockets::Own(own), unsupported: None, lacking }
        };
        all.insert(name.clone(), assigned);
    }
    *held = now;
    all
}

/// Adds to what a Gateway has what it still lacks. Says what cannot be had.
fn complete(
    pool: &[AddressRange],
    wish: &Wish,
    own: &mut Vec<IpAddr>,
    taken: &mut BTreeSet<IpAddr>,
) -> Option<(&'static str, String)> {
    let mut unusable = Vec::new();
    for address in &wish.exact {
        if own.contains(address) {
            continue;
        }
        if pool.iter().any(|range| range.contains(*address)) && taken.insert(*address) {
            own.push(*address);
        } else {
            unusable.push(address.to_string());
        }
    }
    let has_any = own.iter().any(|address| !wish.exact.contains(address));
    let mut exhausted = false;
    if wish.any && !has_any {
        match pool.iter().find_map(|range| range.free(taken)) {
            Some(address) => {
                taken.insert(address);
                own.push(address);
            }
            None => exhausted = true,
        }
    }
    if !unusable.is_empty() {
        let text = format!("no address of gateways.addresses, or taken by another Gateway: {}", unusable.join(", "));
        return Some(("AddressNotUsable", text));
    }
    exhausted.then(|| ("AddressNotAssigned", "all addresses of gateways.addresses are taken".to_owned()))
}

/// The addresses in the status of a Gateway.
fn shown(gateway: &Gateway) -> Vec<IpAddr> {
    let written = gateway.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let mut addresses = Vec::new();
    for address in written.iter().filter_map(|address| address.value.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// Where clients find what is served at shared sockets. `None`: it is not known yet.
pub(super) fn published(reading: &mut Reading<'_>, options: &Options) -> Option<Vec<GatewayAddress>> {
    let Some(name) = &options.published_service else { return Some(options.published.clone()) };
    let service = reading.service(name)?;
    let balancer = service.status.as_ref()?.load_balancer.as_ref()?;
    let mut addresses = Vec::new();
    for point in balancer.ingress.iter().flatten() {
        let ip = point.ip.as_deref().and_then(|ip| ip.parse().ok()).map(GatewayAddress::Ip);
        let host = point.hostname.as_deref().filter(|host| !host.is_empty());
        addresses.extend(ip.or_else(|| host.map(|host| GatewayAddress::Host(host.into()))));
    }
    (!addresses.is_empty()).then_some(addresses)
}

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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A Gateway that asks for `wants`, and whose status shows `shows`.
    fn gateway(wants: &[&str], shows: &[&str]) -> Gateway {
        let address = |text: &&str| match *text {
            "any" => json!({ "type": "IPAddress" }),
            "name" => json!({ "type": "Hostname", "value": "a.test" }),
            ip => json!({ "type": "IPAddress", "value": ip }),
        };
        let wants: Vec<_> = wants.iter().map(address).collect();
        let shows: Vec<_> = shows.iter().map(address).collect();
        let spec = json!({ "gatewayClassName": "weir", "listeners": [], "addresses": wants });
        let value = json!({ "metadata": { "name": "x" }, "spec": spec, "status": { "addresses": shows } });
        serde_json::from_value(value).unwrap()
    }

    fn pool(ranges: &[(&str, &str)]) -> Vec<AddressRange> {
        let range =
            |(first, last): &(&str, &str)| AddressRange { first: first.parse().unwrap(), last: last.parse().unwrap() };
        ranges.iter().map(range).collect()
    }

    /// What each of `gateways` gets, the oldest first: addresses, and the reason why it is not all.
    fn got(pool: &[AddressRange], gateways: &[(&str, Gateway)], held: &mut Held) -> Vec<String> {
        let names: Vec<ObjectName> = gateways.iter().map(|(name, _)| ObjectName::new("shop", *name)).collect();
        let by_age: Vec<_> = names.iter().zip(gateways.iter().map(|(_, gateway)| gateway)).collect();
        let all = assign(pool, &by_age, held);
        let show = |name: &ObjectName| {
            let assigned = &all[name];
            let addresses = match &assigned.sockets {
                Sockets::Shared => "shared".to_owned(),
                Sockets::Own(own) => own.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            };
            let lacking = assigned.lacking.as_ref().map(|(reason, _)| *reason);
            let unsupported = assigned.unsupported.as_ref().map(|_| "UnsupportedAddress");
            [Some(&*addresses), lacking, unsupported].into_iter().flatten().collect::<Vec<_>>().join("; ")
        };
        names.iter().map(show).collect()
    }

    #[test]
    fn each_gateway_gets_the_first_free_address_in_the_order_of_the_pool() {
        let pool = pool(&[("192.0.2.8", "192.0.2.9"), ("192.0.2.1", "192.0.2.1"), ("2001:db8::1", "2001:db8::1")]);
        let gateways = ["a", "b", "c", "d", "e"].map(|name| (name, gateway(&[], &[])));
        let all = got(&pool, &gateways, &mut Held::new());
        assert_eq!(all, ["192.0.2.8", "192.0.2.9", "192.0.2.1", "2001:db8::1", "; AddressNotAssigned"]);
    }

    #[test]
    fn what_is_asked_for_is_given_or_refused_with_the_reason_of_the_api() {
        let small = pool(&[("192.0.2.1", "192.0.2.3")]);
        for (wants, expected) in [
            (&["192.0.2.3"][..], "192.0.2.3"),
            (&["any"], "192.0.2.1"),
            (&["192.0.2.2", "any"], "192.0.2.2 192.0.2.1"),
            (&["203.0.113.1", "192.0.2.2"], "192.0.2.2; AddressNotUsable"),
            (&["203.0.113.1"], "; AddressNotUsable"),
            (&["name", "203.0.113.1", "192.0.2.2"], "; UnsupportedAddress"),
        ] {
            assert_eq!(got(&small, &[("a", gateway(wants, &[]))], &mut Held::new()), [expected], "{wants:?}");
        }
        for (wants, expected) in [(&[][..], "shared"), (&["any"], "shared"), (&["203.0.113.1"], "203.0.113.1")] {
            assert_eq!(
                got(&[], &[("a", gateway(wants, &[]))], &mut Held::new()),
                [expected],
                "{wants:?} without a pool"
            );
        }
    }

    #[test]
    fn address_is_kept_while_the_gateway_lives_also_from_older_ones_that_come_later() {
        let pool = pool(&[("192.0.2.1", "192.0.2.4")]);
        let mut held = Held::new();
        let any = || gateway(&[], &[]);
        assert_eq!(got(&pool, &[("b", any()), ("c", any())], &mut held), ["192.0.2.1", "192.0.2.2"]);
        let three = [("a", any()), ("b", any()), ("c", any())];
        assert_eq!(got(&pool, &three, &mut held), ["192.0.2.3", "192.0.2.1", "192.0.2.2"]);
        let greedy = [("a", gateway(&["192.0.2.1"], &[])), ("b", any())];
        assert_eq!(got(&pool, &greedy, &mut held), ["; AddressNotUsable", "192.0.2.1"]);
        assert_eq!(got(&pool, &[("a", gateway(&["192.0.2.1"], &[]))], &mut held), ["192.0.2.1"]);
    }

    #[test]
    fn what_a_status_shows_comes_before_what_is_remembered() {
        let pool = pool(&[("192.0.2.1", "192.0.2.4")]);
        let mut held = Held::new();
        let shown = [
            ("a", gateway(&[], &["192.0.2.4"])),
            ("b", gateway(&[], &["192.0.2.4"])),
            ("c", gateway(&[], &["203.0.113.1"])),
        ];
        assert_eq!(got(&pool, &shown, &mut held), ["192.0.2.4", "192.0.2.1", "192.0.2.2"]);
        let moved = [("a", gateway(&[], &["192.0.2.3"])), ("b", gateway(&[], &[]))];
        assert_eq!(got(&pool, &moved, &mut held), ["192.0.2.3", "192.0.2.1"]);
    }
}

//! How values are written: one module per syntax, each with `accepts` (for messages), `read` and `show`.

use std::time::Duration;

/// Durations: `250ms`, `5s`, `1m30s`, `1h`, `0`.
pub mod duration {
    use super::Duration;

    const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

    pub fn accepts(min: &str, max: &str) -> String {
        format!("a duration like 250ms, 5s, 1m30s or 1h, from {min} to {max}")
    }

    pub fn read(text: &str, min: &str, max: &str) -> Option<Duration> {
        let value = parse(text)?;
        (parse(min)? <= value && value <= parse(max)?).then_some(value)
    }

    /// Numbers with units, largest first is usual but not asked for. Only zero may stand without a unit.
    fn parse(text: &str) -> Option<Duration> {
        if text == "0" {
            return Some(Duration::ZERO);
        }
        let mut rest = text;
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit())?;
            let (number, tail) = rest.split_at(digits);
            let unit_len = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_len);
            let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
            total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(*scale)?)?;
            rest = tail;
        }
        (!text.is_empty()).then(|| Duration::from_millis(total))
    }

    pub fn show(value: &Duration) -> String {
        let mut left = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
        let mut text = String::new();
        for (unit, scale) in UNITS.iter().rev() {
            if left / scale > 0 {
                text.push_str(&format!("{}{unit}", left / scale));
                left %= scale;
            }
        }
        if text.is_empty() { "0".to_owned() } else { text }
    }
}

/// Sizes in bytes: `32768`, `32KiB`, `1MiB`.
pub mod size {
    const UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

    pub fn accepts(min: u64, max: u64) -> String {
        format!("a size in bytes like 4096, 32KiB or 1MiB, from {} to {}", show(&min), show(&max))
    }

    pub fn read<T: TryFrom<u64>>(text: &str, min: u64, max: u64) -> Option<T> {
        let (number, scale) =
            UNITS.iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, *scale))).unwrap_or((text, 1));
        let value = super::digits(number.trim_end())?.checked_mul(scale)?;
        (min..=max).contains(&value).then(|| T::try_from(value).ok()).flatten()
    }

    pub fn show<T: Copy + TryInto<u64>>(value: &T) -> String {
        let value: u64 = (*value).try_into().unwrap_or(u64::MAX);
        match UNITS.iter().find(|(_, scale)| value >= *scale && value.is_multiple_of(*scale)) {
            Some((unit, scale)) if *scale > 1 => format!("{}{unit}", value / scale),
            _ => value.to_string(),
        }
    }
}

/// Whole numbers.
pub mod count {
    pub fn accepts(min: u64, max: u64) -> String {
        format!("a whole number from {min} to {max}")
    }

    pub fn read<T: TryFrom<u64>>(text: &str, min: u64, max: u64) -> Option<T> {
        let value = super::digits(text)?;
        (min..=max).contains(&value).then(|| T::try_from(value).ok()).flatten()
    }

    pub fn show<T: std::fmt::Display>(value: &T) -> String {
        value.to_string()
    }
}

/// The number of workers: a count of at least one.
pub mod workers {
    use std::num::NonZeroUsize;

    pub fn accepts() -> String {
        super::count::accepts(1, 1024)
    }

    pub fn read(text: &str) -> Option<NonZeroUsize> {
        super::count::read::<usize>(text, 1, 1024).and_then(NonZeroUsize::new)
    }

    pub fn show(value: &NonZeroUsize) -> String {
        value.to_string()
    }
}

/// A share between nothing and all.
pub mod share {
    pub fn accepts() -> String {
        "a share from 0 to 1, like 0.01".to_owned()
    }

    pub fn read(text: &str) -> Option<f64> {
        text.parse().ok().filter(|value| (0.0..=1.0).contains(value))
    }

    pub fn show(value: &f64) -> String {
        value.to_string()
    }
}

/// Yes or no.
pub mod boolean {
    pub fn accepts() -> String {
        "true or false".to_owned()
    }

    pub fn read(text: &str) -> Option<bool> {
        text.parse().ok()
    }

    pub fn show(value: &bool) -> String {
        value.to_string()
    }
}

/// One of a few words.
pub mod choice {
    use serde::Serialize;

    pub fn accepts<T: Serialize>(all: &[T]) -> String {
        let words: Vec<String> = all.iter().map(show).collect();
        format!("one of {}", words.join(", "))
    }

    pub fn read<T: Copy + Serialize>(text: &str, all: &[T]) -> Option<T> {
        all.iter().copied().find(|one| show(one) == text)
    }

    pub fn show<T: Serialize>(value: &T) -> String {
        let word = serde_json::to_value(value).ok();
        word.as_ref().and_then(|word| word.as_str()).unwrap_or_default().to_owned()
    }
}

/// Address and port: `127.0.0.1:9900`, `[::1]:9900`, `localhost:9900`, `:8080` (all addresses).
pub mod address {
    use std::net::SocketAddr;

    pub fn accepts() -> String {
        "an address and port like 127.0.0.1:8080, [::1]:8080 or :8080 (every address)".to_owned()
    }

    pub fn read(text: &str) -> Option<SocketAddr> {
        match text.split_once(':') {
            Some(("", port)) => format!("0.0.0.0:{port}").parse().ok(),
            Some(("localhost", port)) => format!("127.0.0.1:{port}").parse().ok(),
            _ => text.parse().ok(),
        }
    }

    pub fn show(value: &SocketAddr) -> String {
        value.to_string()
    }
}

/// Networks, separated by commas; a bare address is a network of one.
pub mod networks {
    use std::net::IpAddr;

    use ipnet::IpNet;

    pub fn accepts() -> String {
        "networks like 10.0.0.0/8 or 2001:db8::/32, or addresses".to_owned()
    }

    pub fn read(text: &str) -> Option<Vec<IpNet>> {
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        words.map(|word| word.parse().ok().or_else(|| word.parse::<IpAddr>().ok().map(IpNet::from))).collect()
    }

    pub fn show(value: &[IpNet]) -> String {
        value.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
}

/// Ranges of addresses: `192.0.2.7`, `192.0.2.0/24`, `192.0.2.10-192.0.2.20`.
pub mod ranges {
    use std::net::IpAddr;

    use ipnet::IpNet;

    pub fn accepts() -> String {
        "addresses, networks and ranges like 192.0.2.7, 192.0.2.0/24 or 192.0.2.10-192.0.2.20".to_owned()
    }

    pub fn read(text: &str) -> Option<Vec<(IpAddr, IpAddr)>> {
        text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(range).collect()
    }

    fn range(word: &str) -> Option<(IpAddr, IpAddr)> {
        if let Some((first, last)) = word.split_once('-') {
            let (first, last): (IpAddr, IpAddr) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            return (first.is_ipv4() == last.is_ipv4() && first <= last).then_some((first, last));
        }
        if let Ok(address) = word.parse() {
            return Some((address, address));
        }
        // Without the address of the network itself and that of all its hosts.
        let (first, last) = match word.parse::<IpNet>().ok()? {
            IpNet::V4(net) => (net.hosts().next()?.into(), net.hosts().next_back()?.into()),
            IpNet::V6(net) => (net.network().into(), net.broadcast().into()),
        };
        Some((first, last))
    }

    pub fn show(value: &[(IpAddr, IpAddr)]) -> String {
        let show = |(first, last): &(IpAddr, IpAddr)| {
            if first == last { first.to_string() } else { format!("{first}-{last}") }
        };
        value.iter().map(show).collect::<Vec<_>>().join(",")
    }
}

/// Addresses and host names.
pub mod places {
    use std::net::IpAddr;

    pub fn accepts() -> String {
        "addresses and host names like 192.0.2.7 or edge.example.com".to_owned()
    }

    pub fn read(text: &str) -> Option<Vec<String>> {
        // RFC 1123.
        let label = |label: &str| {
            let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            !label.is_empty() && label.len() <= 63 && label.bytes().all(legal)
        };
        let legal = |word: &str| word.parse::<IpAddr>().is_ok() || (word.len() <= 253 && word.split('.').all(label));
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        words.map(|word| legal(word).then(|| word.to_owned())).collect()
    }

    pub fn show(value: &[String]) -> String {
        value.join(",")
    }
}

/// Namespace and name of an object that may be absent.
pub mod object {
    pub fn accepts() -> String {
        "namespace/name".to_owned()
    }

    #[expect(clippy::option_option, reason = "the outer one is of reading, the inner one of the setting")]
    pub fn read(text: &str) -> Option<Option<String>> {
        if text.is_empty() {
            return Some(None);
        }
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        let (namespace, name) = text.split_once('/')?;
        let good = |part: &str| !part.is_empty() && part.len() <= 253 && part.bytes().all(legal);
        (good(namespace) && good(name)).then(|| Some(text.to_owned()))
    }

    pub fn show(value: &Option<String>) -> String {
        value.clone().unwrap_or_default()
    }
}

/// A path that may be absent.
pub mod optional_path {
    use std::path::PathBuf;

    pub fn accepts() -> String {
        "a path".to_owned()
    }

    #[expect(clippy::option_option, reason = "the outer one is of reading, the inner one of the setting")]
    pub fn read(text: &str) -> Option<Option<PathBuf>> {
        Some((!text.is_empty()).then(|| text.into()))
    }

    pub fn show(value: &Option<PathBuf>) -> String {
        value.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
    }
}

/// A label of RFC 1123.
fn is_label(text: &str) -> bool {
    text.len() <= 63 && is_part(text)
}

/// A subdomain of RFC 1123 as Kubernetes reads it: only the whole has a length.
fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_part)
}

fn is_part(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Names of namespaces.
pub mod names {
    pub fn accepts() -> String {
        "names of namespaces, each of at most 63 of a-z, 0-9 and -".to_owned()
    }

    pub fn read(text: &str) -> Option<Vec<String>> {
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        let name = |word: &str| super::is_label(word).then(|| word.to_owned());
        let mut names: Vec<String> = words.map(name).collect::<Option<_>>()?;
        names.sort();
        names.dedup();
        Some(names)
    }

    pub fn show(value: &[String]) -> String {
        value.join(",")
    }
}

/// The name of an object.
pub mod name {
    pub fn accepts() -> String {
        "a name of at most 253 of a-z, 0-9, - and .".to_owned()
    }

    pub fn read(text: &str) -> Option<String> {
        super::is_subdomain(text).then(|| text.to_owned())
    }

    pub fn show(value: &str) -> String {
        value.to_owned()
    }
}

/// A label selector that may be absent. The API server knows its syntax better; here only what no selector has is refused.
pub mod selector {
    pub fn accepts() -> String {
        "a label selector like team=shop or edge in (a, b)".to_owned()
    }

    #[expect(clippy::option_option, reason = "the outer one is of reading, the inner one of the setting")]
    pub fn read(text: &str) -> Option<Option<String>> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"-_./=!,() ".contains(&b);
        let text = text.trim();
        text.bytes().all(legal).then(|| (!text.is_empty()).then(|| text.to_owned()))
    }

    pub fn show(value: &Option<String>) -> String {
        value.clone().unwrap_or_default()
    }
}

/// `stdout` or a path.
pub mod output {
    use std::path::{Path, PathBuf};

    pub fn accepts() -> String {
        "stdout or a path".to_owned()
    }

    pub fn read(text: &str) -> Option<PathBuf> {
        (!text.is_empty()).then(|| text.into())
    }

    pub fn show(value: &Path) -> String {
        value.display().to_string()
    }
}

/// A secret word that may be absent.
pub mod token {
    pub fn accepts() -> String {
        "at least 16 visible ASCII characters".to_owned()
    }

    #[expect(clippy::option_option, reason = "the outer one is of reading, the inner one of the setting")]
    pub fn read(text: &str) -> Option<Option<String>> {
        if text.is_empty() {
            return Some(None);
        }
        (text.len() >= 16 && text.bytes().all(|b| b.is_ascii_graphic())).then(|| Some(text.to_owned()))
    }

    pub fn show(value: &Option<String>) -> String {
        if value.is_some() { "(set)".to_owned() } else { String::new() }
    }
}

/// Digits and nothing else: no sign, no underscore.
fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

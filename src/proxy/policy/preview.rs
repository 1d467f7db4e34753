//! Preview: a client asks for a color that is not effective yet, by header, by cookie or by host.
//!
//! Pure; called by the request path once per request to a backend with a preview. It says which color was asked for, not
//! whether that may be served: a color that does not exist or is not open (`Color::preview_open`) is not, and the
//! effective one serves. Who is not in `weir.dev/preview-from` asks for nothing, and what asks is taken out of the
//! request, so that no application takes it for allowed.

use std::net::IpAddr;

use crate::model::Preview;

/// What a client asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish<'a> {
    /// This color.
    Color(&'a str),
    /// Whichever color is not effective (it asked by host; of several, the one that is desired, else the first).
    Idle,
}

/// Whether this client may choose a color. Of anyone else, the header and the cookie are to be removed from the request
/// ([`without_cookie`]). `client` is the address that the trusted proxies vouch for.
pub fn may_choose(preview: &Preview, client: IpAddr) -> bool {
    // An IPv4 client of a dual-stack socket is the client that the user wrote an IPv4 network for.
    let client = client.to_canonical();
    preview.from.is_empty() || preview.from.iter().any(|network| network.contains(&client))
}

/// What a client asks for: the header is asked first, then the cookie, then the host. `header` is the value of the
/// header that the preview names, `cookies` are the values of all `Cookie` headers, `host` is lower-case without port.
pub fn wish<'a>(
    preview: &Preview,
    header: Option<&'a str>,
    cookies: impl IntoIterator<Item = &'a str>,
    host: &str,
    client: IpAddr,
) -> Option<Wish<'a>> {
    if !may_choose(preview, client) {
        return None;
    }
    let named = |value: &'a str| Some(value.trim_matches([' ', '\t'])).filter(|value| !value.is_empty());
    if let Some(color) = preview.header.as_ref().and(header).and_then(named) {
        return Some(Wish::Color(color));
    }
    let cookie = preview.cookie.as_ref().and_then(|name| cookies.into_iter().find_map(|value| cookie(value, name)));
    if let Some(color) = cookie.and_then(named) {
        return Some(Wish::Color(color));
    }
    preview.host.as_deref().filter(|wanted| *wanted == host).map(|_| Wish::Idle)
}

/// The color to serve a request with, if it is not the effective one. `colors` are name and whether a preview of it is
/// open, in written order; `effective` is the one served to everybody; `active` is the one that is desired.
pub fn color_for<'a>(
    wish: Option<Wish<'_>>,
    colors: impl IntoIterator<Item = (&'a str, bool)>,
    effective: &str,
    active: Option<&str>,
) -> Option<&'a str> {
    let wish = wish?;
    let mut open = colors.into_iter().filter(|(name, open)| *open && *name != effective).map(|(name, _)| name);
    match wish {
        Wish::Color(color) => open.find(|name| *name == color),
        Wish::Idle => {
            let first = open.next()?;
            Some(std::iter::once(first).chain(open).find(|name| Some(*name) == active).unwrap_or(first))
        }
    }
}

/// The value of a cookie in the value of one `Cookie` header (RFC 6265 section 4.2.1); quotes around it do not count.
pub fn cookie<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    let value = header.split(';').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        (key.trim() == name).then(|| value.trim())
    })?;
    Some(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
}

/// The value of a `Cookie` header without one cookie: `None` when it does not have it, and empty when nothing is left
/// (then the header goes too).
pub fn without_cookie(header: &str, name: &str) -> Option<String> {
    let is = |pair: &str| pair.split_once('=').map_or(pair, |(key, _)| key).trim() == name;
    if !header.split(';').any(is) {
        return None;
    }
    let kept: Vec<&str> = header.split(';').filter(|pair| !is(pair)).map(str::trim).collect();
    Some(kept.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INSIDE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 2, 3));
    const OUTSIDE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn preview() -> Preview {
        Preview {
            header: Some("x-weir-color".into()),
            cookie: Some("weir-color".into()),
            host: Some("green.shop.example".into()),
            from: vec!["10.0.0.0/8".parse().unwrap()],
        }
    }

    #[test]
    fn header_is_asked_first_then_cookie_then_host() {
        let ask = |header, cookie: Option<&'static str>, host| wish(&preview(), header, cookie, host, INSIDE);
        let host = "green.shop.example";
        assert_eq!(ask(Some(" red "), Some("weir-color=green"), host), Some(Wish::Color("red")));
        assert_eq!(ask(None, Some("a=b; weir-color=\"green\""), host), Some(Wish::Color("green")));
        assert_eq!(ask(None, Some("xweir-color=green"), host), Some(Wish::Idle));
        assert_eq!(ask(None, None, "shop.example"), None);
        assert_eq!(ask(Some(""), None, "shop.example"), None);
        assert_eq!(wish(&preview(), None, ["a=b", "weir-color=red"], "", INSIDE), Some(Wish::Color("red")));
    }

    #[test]
    fn who_is_not_listed_asks_for_nothing() {
        let ask = |client| wish(&preview(), Some("green"), ["weir-color=green"], "green.shop.example", client);
        assert_eq!(ask(OUTSIDE), None);
        assert_eq!(ask("::ffff:10.9.9.9".parse().unwrap()), Some(Wish::Color("green")), "IPv4 on a dual-stack socket");
        assert_eq!(ask("2001:db8::1".parse().unwrap()), None);
        let everyone = Preview { from: Vec::new(), ..preview() };
        assert!(may_choose(&everyone, OUTSIDE) && !may_choose(&preview(), OUTSIDE));
    }

    #[test]
    fn what_the_preview_does_not_name_is_not_asked() {
        let host_only = Preview { header: None, cookie: None, ..preview() };
        assert_eq!(wish(&host_only, Some("green"), ["weir-color=green"], "shop.example", INSIDE), None);
    }

    #[test]
    fn only_an_open_color_is_served_and_the_effective_one_is_no_preview() {
        let colors = [("blue", true), ("green", false), ("red", true)];
        let serve = |wish, active| color_for(wish, colors, "blue", active);
        assert_eq!(serve(Some(Wish::Color("red")), None), Some("red"));
        assert_eq!(serve(Some(Wish::Color("green")), None), None, "not enough of it is ready");
        assert_eq!(serve(Some(Wish::Color("purple")), None), None);
        assert_eq!(serve(Some(Wish::Color("blue")), None), None);
        assert_eq!(serve(Some(Wish::Idle), Some("green")), Some("red"));
        assert_eq!(serve(None, None), None);
        let two = [("blue", true), ("green", true), ("red", true)];
        assert_eq!(color_for(Some(Wish::Idle), two, "blue", Some("red")), Some("red"));
        assert_eq!(color_for(Some(Wish::Idle), two, "blue", Some("blue")), Some("green"));
    }

    #[test]
    fn cookie_is_taken_out_and_the_others_stay() {
        assert_eq!(without_cookie("a=1; weir-color=green; b=2", "weir-color").as_deref(), Some("a=1; b=2"));
        assert_eq!(without_cookie("weir-color=green;a=1;weir-color=red", "weir-color").as_deref(), Some("a=1"));
        assert_eq!(without_cookie("weir-color=green", "weir-color").as_deref(), Some(""));
        assert_eq!(without_cookie("a=1; xweir-color=green", "weir-color"), None);
    }
}

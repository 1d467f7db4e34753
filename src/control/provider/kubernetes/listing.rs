//! Reads everything that has a status, page by page, for who begins to lead.

use std::time::Instant;

use serde_json::Value;
use tokio::sync::mpsc;

use super::pages::Pages;
use super::remote::{Failed, Kind, Refusal, Remote, STATUS_KINDS};
use super::status::Live;
use super::view::pause;
use crate::model::ObjectName;

/// What a page of a listing said.
pub enum Read {
    /// Some objects of a kind.
    Page(&'static Kind, Vec<(ObjectName, Live)>),
    /// All kinds were read.
    End,
}

/// After this many failures a kind is left out until the next time.
const FAILURES: u32 = 8;

/// What is listed: what is watched.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    /// None named: all.
    pub namespaces: Vec<String>,
    /// Label selector of the kinds that have one.
    pub selector: Option<String>,
}

impl Listed {
    /// Whether an object of which nothing is to be said may have been written to by this Weir: of a kind that is not
    /// selected others may say something, who look at other labels.
    pub fn may_remove(&self, kind: &Kind) -> bool {
        self.selector.is_none() || kind.is_selected()
    }

    /// `page`: how many objects at most; all of them without.
    fn path(&self, kind: &Kind, namespace: &str, page: Option<u32>, token: &str) -> String {
        // No limit, to the API server (ListOptions).
        let mut path = format!("{}?limit={}", kind.list(namespace), page.unwrap_or(0));
        if let Some(selector) = self.selector.as_deref().filter(|_| kind.is_selected()) {
            path.push_str("&labelSelector=");
            path.push_str(&encoded(selector));
        }
        path.push_str("&continue=");
        path.push_str(&encoded(token));
        path
    }
}

/// As the value of a query (RFC 3986 section 2.1).
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            byte => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// Reads all objects that have a status, page by page.
pub async fn list(remote: Remote, listed: Listed, pages: mpsc::Sender<Read>) {
    tokio::select! {
        () = read(&remote, &listed, &pages) => {}
        // Nobody listens any more when somebody else leads.
        () = pages.closed() => {}
    }
}

async fn read(remote: &Remote, listed: &Listed, pages: &mpsc::Sender<Read>) {
    let all = [String::new()];
    let mut sizes = Pages::default();
    for kind in &STATUS_KINDS {
        let mut failures = 0;
        let places = if kind.namespaced && !listed.namespaces.is_empty() { &listed.namespaces[..] } else { &all };
        for namespace in places {
            let mut token = String::new();
            while failures < FAILURES {
                let asked = Instant::now();
                let mut page = match remote.page(&listed.path(kind, namespace, sizes.limit(), &token)).await {
                    Ok(page) => page,
                    Err(Failed { refusal: Refusal::Away(_), is_late }) => {
                        failures += 1;
                        if is_late {
                            sizes.late();
                        }
                        tokio::time::sleep(pause(failures, fastrand::f64())).await;
                        continue;
                    }
                    // A token that is too old: from the beginning. Kinds that do not exist or may not be read: without.
                    Err(Failed { refusal: Refusal::Invalid(_), .. }) if !token.is_empty() => {
                        failures += 1;
                        sizes.too_old();
                        token.clear();
                        continue;
                    }
                    Err(_) => break,
                };
                sizes.took(asked.elapsed());
                token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let objects = page["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
                let named = |object: Value| {
                    let metadata = &object["metadata"];
                    (ObjectName::new(text(&metadata["namespace"]), text(&metadata["name"])), Live::read(object))
                };
                if pages.send(Read::Page(kind, objects.into_iter().map(named).collect())).await.is_err() {
                    return;
                }
                if token.is_empty() {
                    break;
                }
            }
        }
    }
    let _ = pages.send(Read::End).await;
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::json;

    use super::super::script;
    use super::*;

    /// What the server is asked for, kind by kind: how many objects, and from where.
    async fn asked(answer: impl Fn(usize, &str) -> Option<(u16, String)> + Send + Sync + 'static) -> Vec<String> {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = asked.clone();
        let client = script::client(move |path| {
            let mut noted = noted.lock().expect("a lock");
            noted.push(path.split_once("?limit=").expect("a limit").1.to_owned());
            answer(noted.len() - 1, path)
        });
        let (pages, mut read) = mpsc::channel(1);
        let listing = tokio::spawn(list(Remote::new(client), Listed::default(), pages));
        while read.recv().await.is_some() {}
        listing.await.expect("a listing");
        let asked = asked.lock().expect("a lock");
        asked.clone()
    }

    fn page(next: &str) -> Option<(u16, String)> {
        Some((200, json!({"metadata": {"continue": next}, "items": []}).to_string()))
    }

    fn refusal(code: u16) -> Option<(u16, String)> {
        let status = json!({"kind": "Status", "status": "Failure", "code": code, "message": "no", "reason": "No"});
        Some((code, status.to_string()))
    }

    #[tokio::test(start_paused = true)]
    async fn pages_shrink_when_they_do_not_arrive_and_not_when_they_are_refused_and_grow_again() {
        let asked = asked(|number, _| match number {
            0 => refusal(503),
            1 => refusal(401),
            2 => refusal(429),
            4 | 5 => None,
            _ => page(""),
        })
        .await;
        let sizes: Vec<&str> = asked.iter().filter_map(|query| query.split('&').next()).collect();
        assert_eq!(sizes[..10], ["500", "500", "500", "500", "500", "125", "31", "62", "124", "248"]);
    }

    #[tokio::test(start_paused = true)]
    async fn listing_that_became_too_old_begins_again_at_once() {
        let asked = asked(|number, _| match number {
            0 => page("next"),
            1 => refusal(410),
            _ => page(""),
        })
        .await;
        assert_eq!(asked[..4], ["500&continue=", "500&continue=next", "0&continue=", "500&continue="]);
    }

    fn named(name: &str) -> &'static Kind {
        Kind::named(name).expect("a kind")
    }

    #[test]
    fn what_is_not_selected_is_neither_listed_nor_touched() {
        let listed = Listed { namespaces: Vec::new(), selector: Some("team=shop, env in (a,b)".to_owned()) };
        let (route, class) = (named("HTTPRoute"), named("GatewayClass"));
        assert_eq!(
            listed.path(route, "shop", Some(500), "a+b="),
            "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes?limit=500\
             &labelSelector=team%3Dshop%2C%20env%20in%20%28a%2Cb%29&continue=a%2Bb%3D"
        );
        assert_eq!(
            listed.path(class, "", Some(500), ""),
            "/apis/gateway.networking.k8s.io/v1/gatewayclasses?limit=500&continue="
        );
        assert!(listed.may_remove(route) && !listed.may_remove(class));
        assert!(Listed::default().may_remove(class));
    }

    #[test]
    fn what_asks_to_be_served_is_selected_and_what_it_refers_to_is_not() {
        for kind in
            STATUS_KINDS.iter().map(|kind| kind.name).chain(["Service", "Secret", "ConfigMap", "ReferenceGrant"])
        {
            let asks = kind.ends_with("Route") || ["Ingress", "Gateway", "ListenerSet"].contains(&kind);
            assert_eq!(named(kind).is_selected(), asks, "{kind}");
        }
    }
}

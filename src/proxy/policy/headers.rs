//! Header changes of a route.
//!
//! Fields that say how a message is framed or how a connection is used are Weir's own: a route cannot change them, or what
//! Weir understood would no longer be what it forwards.

use crate::model::HeaderEdit;
use crate::proxy::wire::{Headers, Name, RequestHead, ResponseHead};

/// Changes a request: remove, set, add. A change of `host` changes the authority; it cannot be removed.
pub fn edit_request(edit: &HeaderEdit, head: &mut RequestHead) {
    edit_fields(edit, &mut head.headers);
    for (name, value) in edit.set.iter().chain(&edit.add) {
        if Name::of(name.as_bytes()) == Name::Host {
            head.set_authority(value);
        }
    }
}

/// Changes a response: remove, set, add.
pub fn edit_response(edit: &HeaderEdit, head: &mut ResponseHead) {
    edit_fields(edit, &mut head.headers);
}

fn edit_fields(edit: &HeaderEdit, headers: &mut Headers) {
    for name in edit.remove.iter().filter(|name| is_editable(name)) {
        headers.remove(name);
    }
    for (name, value) in edit.set.iter().filter(|(name, _)| is_editable(name)) {
        headers.set(name, value.as_bytes());
    }
    for (name, value) in edit.add.iter().filter(|(name, _)| is_editable(name)) {
        headers.append(name.as_bytes(), value.as_bytes());
    }
}

/// Whether a route may change this field.
pub fn is_editable(name: &str) -> bool {
    let id = Name::of(name.as_bytes());
    !id.is_hop_by_hop() && !matches!(id, Name::Host | Name::ContentLength | Name::Expect)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(Arc<str>, Arc<str>)> {
        list.iter().map(|(name, value)| (Arc::from(*name), Arc::from(*value))).collect()
    }

    fn edit(remove: &[&str], set: &[(&str, &str)], add: &[(&str, &str)]) -> HeaderEdit {
        HeaderEdit { remove: remove.iter().map(|name| Arc::from(*name)).collect(), set: pairs(set), add: pairs(add) }
    }

    fn written(headers: &Headers) -> String {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        headers.iter().map(|field| format!("{}: {}\r\n", text(field.name), text(field.value))).collect()
    }

    #[test]
    fn remove_set_and_add_are_applied_in_that_order() {
        let mut head = RequestHead::default();
        for (name, value) in [("X-One", "1"), ("X-Two", "2"), ("x-one", "3"), ("X-Three", "3")] {
            head.headers.append(name.as_bytes(), value.as_bytes());
        }
        let edit = edit(&["x-three"], &[("x-one", "set")], &[("x-one", "added"), ("x-two", "more"), ("x-new", "n")]);
        edit_request(&edit, &mut head);
        assert_eq!(written(&head.headers), "X-One: set\r\nX-Two: 2\r\nx-one: added\r\nx-two: more\r\nx-new: n\r\n");
    }

    #[test]
    fn host_is_the_authority_and_cannot_be_removed() {
        let mut head = RequestHead::default();
        head.set_authority("shop.test");
        edit_request(&edit(&["host"], &[], &[]), &mut head);
        assert_eq!(head.authority(), "shop.test");
        edit_request(&edit(&[], &[("host", "Inner.Test")], &[]), &mut head);
        assert_eq!(head.authority(), "inner.test");
        assert!(head.headers.is_empty());
    }

    #[test]
    fn framing_and_connection_fields_stay_as_they_are() {
        let mut head = ResponseHead::default();
        head.headers.append(b"Content-Length", b"5");
        let edit = edit(
            &["content-length"],
            &[("transfer-encoding", "chunked"), ("content-length", "9")],
            &[("connection", "close"), ("upgrade", "x")],
        );
        edit_response(&edit, &mut head);
        assert_eq!(written(&head.headers), "Content-Length: 5\r\n");
    }
}

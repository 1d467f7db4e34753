//! What Weir understood is what it forwards; what it would have to guess about is refused, and the backend sees nothing.
//!
//! Tables of raw bytes in both directions: `requests` and `bodies` over HTTP/1 and `http2` from hostile clients,
//! `responses` from hostile backends. Every case says what the client must get and what exactly the backend must see, is
//! followed by a request on the same connection that must be served if and only if the connection is still certain, and
//! then by an honest request on a new one, which must get its own answer.

mod bodies;
mod frames;
mod http2;
mod requests;
mod responses;
mod stage;

use std::collections::BTreeSet;

/// The tables are what they promise to be.
#[test]
fn there_are_more_than_150_cases_and_each_has_its_own_name() {
    let tables = [
        ("heads of requests", requests::cases().into_iter().map(|case| case.what).collect::<Vec<_>>()),
        ("bodies of requests", bodies::cases().into_iter().map(|case| case.what).collect()),
        ("requests over HTTP/2", http2::cases().into_iter().map(|case| case.what).collect()),
        ("responses", responses::cases().into_iter().map(|case| case.what).collect()),
    ];
    let mut sum = 0;
    for (table, names) in tables {
        println!("{:4} {table}", names.len());
        sum += names.len();
        let distinct: BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{table}: two cases of one name");
    }
    println!("{sum:4} cases");
    assert!(sum >= 150, "{sum} cases");
}

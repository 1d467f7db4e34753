use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const REASONS: &[&str] = &["no_route", "overloaded"];

fn labels(service: &str) -> ColorLabels {
    ColorLabels { namespace: "shop".into(), service: service.into(), port: 80, color: "blue".into() }
}

fn outcome(started: u64, ended: u64, class: Class, status: u16) -> Outcome {
    Outcome { started, first_byte: Some(started), ended, class, status, bytes_in: 3, bytes_out: 5 }
}

#[test]
fn totals_are_exact_after_all_workers_have_published() {
    const WORKERS: u64 = 4;
    const EACH: u64 = 20_000;
    let registry = Registry::new(WORKERS as usize, REASONS);
    let (color, route) = (registry.color(labels("web")), registry.route("r".into(), labels("web")));
    let endpoint = registry.endpoint(labels("web"), "127.0.0.1:1".parse().unwrap());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // A reader that looks all the time: it must never see a torn pair, whose area would be off by a whole clock value.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let totals = registry.totals(u64::MAX / 2);
                let color = &totals.colors[0];
                assert_eq!(color.flow.finished, color.classes.iter().sum::<u64>());
                assert_eq!(color.flow.finished, color.latency.count());
                assert_eq!(color.bytes_out, 5 * color.flow.finished);
                // Every request is over when its worker publishes, and lasted 10 ns.
                assert_eq!(color.flow.area(totals.at), 10 * color.flow.finished);
            }
        });
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let (registry, color, route, endpoint) = (&registry, color.slot(), route.slot(), endpoint.slot());
                scope.spawn(move || {
                    let mut shard = registry.shard(worker as usize);
                    for at in 0..EACH {
                        let now = worker * 1_000 + at;
                        shard.started(color, now);
                        shard.queued(color, now, now + 2);
                        shard.attempt_started(endpoint, now);
                        shard.attempt_finished(endpoint, now, now + 7, at % 2 == 0);
                        shard.finished(color, route, &outcome(now, now + 10, Class::Success, 200));
                        shard.fault(1);
                        if at % 64 == 0 {
                            shard.publish(now);
                        }
                    }
                    shard
                })
            })
            .collect();
        let mut shards: Vec<_> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        done.store(true, Ordering::Relaxed);
        // Nobody reads any more once the scope's reader has left, but until then a publication may be refused.
        for shard in &mut shards {
            while !shard.is_published() {
                shard.publish(1);
            }
        }
    });
    let totals = registry.totals(1_000_000);
    let (color, endpoint, route) = (&totals.colors[0], &totals.endpoints[0], &totals.routes[0]);
    let all = WORKERS * EACH;
    assert_eq!((color.flow.started, color.flow.finished), (all, all));
    assert_eq!((color.area_ns, color.queue_ns), (all * 10, all * 2));
    assert_eq!((color.bytes_in, color.bytes_out), (all * 3, all * 5));
    assert_eq!((color.latency.count(), color.latency.sum_ns), (all, all * 10));
    assert_eq!((color.first_byte.count(), color.first_byte.sum_ns), (all, 0));
    assert_eq!((endpoint.flow.finished, endpoint.errors, endpoint.area_ns), (all, all / 2, all * 7));
    assert_eq!(route.codes, [0, 0, all, 0, 0, 0]);
    assert_eq!(totals.faults, [("no_route", 0), ("overloaded", all)]);
    assert_eq!(color.last_finished, (WORKERS - 1) * 1_000 + EACH - 1 + 10);
}

#[test]
fn a_request_may_start_on_one_worker_and_end_on_another() {
    let registry = Registry::new(2, REASONS);
    let (color, route) = (registry.color(labels("web")), registry.route("r".into(), labels("web")));
    let (mut one, mut two) = (registry.shard(0), registry.shard(1));
    one.started(color.slot(), 100);
    two.finished(color.slot(), route.slot(), &outcome(100, 400, Class::Reset, 0));
    one.publish(500);
    two.publish(500);
    let totals = registry.totals(1_000);
    assert_eq!(totals.colors[0].area_ns, 300);
    assert_eq!(totals.colors[0].class(Class::Reset), 1);
    assert_eq!(totals.routes[0].codes, [1, 0, 0, 0, 0, 0]);
}

#[test]
fn a_refused_publication_is_made_up_for_by_the_next() {
    let registry = Registry::new(1, REASONS);
    let color = registry.color(labels("web"));
    let mut shard = registry.shard(0);
    shard.started(color.slot(), 100);
    let reader = registry.published[0].lock().unwrap();
    shard.publish(200);
    drop(reader);
    assert_eq!(registry.totals(300).colors[0].flow.started, 0);
    shard.publish(300);
    assert_eq!(registry.totals(300).colors[0].flow.started, 1);
}

#[test]
fn a_slots_next_tenant_starts_from_zero_on_every_worker() {
    let registry = Registry::new(2, REASONS);
    let (mut one, mut two) = (registry.shard(0), registry.shard(1));
    let first = registry.color(labels("a"));
    let gone = first.slot();
    one.started(gone, 1);
    two.started(gone, 1);
    one.publish(2);
    two.publish(2);
    drop(first);
    let second = registry.color(labels("b"));
    assert_eq!(second.slot().index(), gone.index());
    assert_eq!(registry.totals(3).colors[0].flow, Flow::default(), "nothing of the old tenant is seen");
    one.started(second.slot(), 5);
    // What still runs for the old tenant counts for nobody.
    one.started(gone, 6);
    one.publish(7);
    two.publish(7);
    let totals = registry.totals(10);
    assert_eq!(&*totals.colors[0].labels.service, "b");
    assert_eq!((totals.colors[0].flow.started, totals.colors[0].area_ns), (1, 5));
}

#[test]
fn area_never_goes_back_when_a_worker_publishes_late() {
    let registry = Registry::new(1, REASONS);
    let (color, route) = (registry.color(labels("web")), registry.route("r".into(), labels("web")));
    let mut shard = registry.shard(0);
    shard.started(color.slot(), 100);
    shard.publish(100);
    shard.finished(color.slot(), route.slot(), &outcome(100, 110, Class::Success, 200));
    // The reader does not know yet that it is over.
    assert_eq!(registry.totals(200).colors[0].area_ns, 100);
    shard.publish(200);
    assert_eq!(registry.totals(201).colors[0].area_ns, 100);
    shard.started(color.slot(), 300);
    shard.publish(300);
    assert_eq!(registry.totals(500).colors[0].area_ns, 210);
}

#[test]
fn series_without_traffic_cost_no_histogram() {
    let registry = Registry::new(1, REASONS);
    let series: Vec<_> = (0..100).map(|at| registry.color(labels(&format!("web-{at}")))).collect();
    let route = registry.route("r".into(), labels("web-99"));
    let mut shard = registry.shard(0);
    let last = series[99].slot();
    shard.started(last, 1);
    shard.finished(last, route.slot(), &outcome(1, 2, Class::Success, 200));
    shard.publish(3);
    let published = registry.published[0].lock().unwrap();
    assert_eq!(published.colors.iter().filter(|entry| entry.cell.histograms.is_some()).count(), 1);
}

#[test]
fn a_brief_reading_has_sums_but_no_buckets() {
    let registry = Registry::new(1, REASONS);
    let (color, route) = (registry.color(labels("web")), registry.route("r".into(), labels("web")));
    let mut shard = registry.shard(0);
    shard.started(color.slot(), 1);
    shard.finished(color.slot(), route.slot(), &outcome(1, 5, Class::Success, 200));
    shard.publish(6);
    let brief = registry.brief(7);
    assert_eq!((brief.colors[0].latency.sum_ns, brief.colors[0].latency.count()), (4, 0));
    assert_eq!(registry.totals(7).colors[0].latency.count(), 1);
}

//! What a reader gets: the published sums of all workers, added, and evaluated with one time.

use std::sync::Mutex;

use super::shard::{ColorCell, EndpointCell, Entry, Published, RouteCell};
use super::slots::{Table, lock};
use super::{CODE_CLASSES, Class, ColorLabels, Distribution, EndpointLabels, Flow, Registry, RouteLabels, Slot};

/// All statistics at one moment. Counters only grow while their series lives.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// The time that everything is evaluated with, nanoseconds of the process clock.
    pub at: u64,
    /// Requests by color and port.
    pub colors: Vec<ColorTotals>,
    /// Attempts by endpoint. Two entries may have the same labels: an endpoint on its way out and its successor.
    pub endpoints: Vec<EndpointTotals>,
    /// Requests by route and color.
    pub routes: Vec<RouteTotals>,
    /// Local replies and broken responses, by reason code.
    pub faults: Vec<(&'static str, u64)>,
}

/// Requests to one color of one port.
#[derive(Clone, Debug)]
pub struct ColorTotals {
    /// Which.
    pub labels: ColorLabels,
    /// Identity over several readings.
    pub slot: Slot,
    /// Starts and ends.
    pub flow: Flow,
    /// Area under the requests in flight, nanoseconds, modulo 2^64. Never goes back from one reading to the next.
    pub area_ns: u64,
    /// Sum of the times that requests waited for a place or a connection, nanoseconds.
    pub queue_ns: u64,
    /// Finished requests by [`Class::ALL`].
    pub classes: [u64; Class::ALL.len()],
    /// Body bytes from clients.
    pub bytes_in: u64,
    /// Body bytes to clients.
    pub bytes_out: u64,
    /// When the last one finished, process clock; 0: none has.
    pub last_finished: u64,
    /// Lengths of finished requests; only the sum in a [`Registry::brief`] reading.
    pub latency: Distribution,
    /// Times to the response head; only the sum in a [`Registry::brief`] reading.
    pub first_byte: Distribution,
}

/// Attempts at one endpoint.
#[derive(Clone, Debug)]
pub struct EndpointTotals {
    /// Which.
    pub labels: EndpointLabels,
    /// Identity over several readings.
    pub slot: Slot,
    /// Starts and ends.
    pub flow: Flow,
    /// Area under the attempts in flight, nanoseconds, modulo 2^64. Never goes back from one reading to the next.
    pub area_ns: u64,
    /// Attempts that failed.
    pub errors: u64,
    /// Sum of the lengths of finished attempts, nanoseconds.
    pub latency_ns: u64,
}

/// Requests through one route to one color.
#[derive(Clone, Debug)]
pub struct RouteTotals {
    /// Which.
    pub labels: RouteLabels,
    /// Finished requests by [`CODE_CLASSES`].
    pub codes: [u64; CODE_CLASSES.len()],
}

impl ColorTotals {
    fn new(slot: Slot, labels: ColorLabels) -> Self {
        Self {
            labels,
            slot,
            flow: Flow::default(),
            area_ns: 0,
            queue_ns: 0,
            classes: [0; Class::ALL.len()],
            bytes_in: 0,
            bytes_out: 0,
            last_finished: 0,
            latency: Distribution::default(),
            first_byte: Distribution::default(),
        }
    }

    fn add(&mut self, cell: &ColorCell, brief: bool) {
        self.flow.add(&cell.flow);
        self.queue_ns = self.queue_ns.wrapping_add(cell.queue_ns);
        for (sum, more) in self.classes.iter_mut().zip(cell.classes) {
            *sum += more;
        }
        self.bytes_in = self.bytes_in.wrapping_add(cell.bytes_in);
        self.bytes_out = self.bytes_out.wrapping_add(cell.bytes_out);
        self.last_finished = self.last_finished.max(cell.last_finished);
        let histograms = cell.histograms.as_ref().filter(|_| !brief);
        self.latency.add(cell.latency_ns, histograms.map(|both| &both.latency));
        self.first_byte.add(cell.first_byte_ns, histograms.map(|both| &both.first_byte));
    }

    /// Adds another series, for readers that do not tell the two apart (several ports of one Service).
    pub fn merge(&mut self, other: &ColorTotals) {
        self.flow.add(&other.flow);
        self.area_ns = self.area_ns.wrapping_add(other.area_ns);
        self.queue_ns = self.queue_ns.wrapping_add(other.queue_ns);
        for (sum, more) in self.classes.iter_mut().zip(other.classes) {
            *sum += more;
        }
        self.bytes_in = self.bytes_in.wrapping_add(other.bytes_in);
        self.bytes_out = self.bytes_out.wrapping_add(other.bytes_out);
        self.last_finished = self.last_finished.max(other.last_finished);
        self.latency.merge(&other.latency);
        self.first_byte.merge(&other.first_byte);
    }

    /// Finished requests of one class.
    pub fn class(&self, class: Class) -> u64 {
        self.classes[class as usize]
    }
}

impl Registry {
    /// Everything, evaluated at `now` (process clock). What workers have not published yet, at most 100 ms of it, is not
    /// in it; what was in flight at their last publication counts as in flight until `now`.
    pub fn totals(&self, now: u64) -> Totals {
        self.read(now, false)
    }

    /// The same without the counts of the distributions, which are most of the work.
    pub fn brief(&self, now: u64) -> Totals {
        self.read(now, true)
    }

    /// When the worker published that did so last among all (process clock); 0 if one has not yet. A value that falls behind
    /// means a stalled worker.
    pub fn published_at(&self) -> u64 {
        self.published.iter().map(|published| lock(published).at).min().unwrap_or(0)
    }

    fn read(&self, now: u64, brief: bool) -> Totals {
        let new_endpoint =
            |slot, labels| EndpointTotals { labels, slot, flow: Flow::default(), area_ns: 0, errors: 0, latency_ns: 0 };
        let new_route = |slot, labels| (slot, RouteTotals { labels, codes: [0; CODE_CLASSES.len()] });
        // Labels first: what is born after this is left out, what dies after this keeps what it has.
        let mut colors = Rows::new(&self.colors, ColorTotals::new);
        let mut endpoints = Rows::new(&self.endpoints, new_endpoint);
        let mut routes = Rows::new(&self.routes, new_route);
        let mut faults = vec![0; self.reasons.len()];
        for published in &self.published {
            let published: &Published = &lock(published);
            colors.add(&published.colors, |row, cell: &ColorCell| row.add(cell, brief));
            endpoints.add(&published.endpoints, |row, cell: &EndpointCell| {
                row.flow.add(&cell.flow);
                row.errors += cell.errors;
                row.latency_ns = row.latency_ns.wrapping_add(cell.latency_ns);
            });
            routes.add(&published.routes, |(_, row), cell: &RouteCell| {
                row.codes.iter_mut().zip(cell.codes).for_each(|(sum, more)| *sum += more);
            });
            faults.iter_mut().zip(&published.faults).for_each(|(sum, more)| *sum += more);
        }
        // A worker that has not published for a while is taken to be busy with what it had; when it turns out that it was
        // not, the area must wait rather than go back, because a counter that goes back looks like a restart.
        let mut table = lock(&self.colors);
        for row in colors.alive() {
            row.area_ns = row.flow.area(now);
            table.never_back(row.slot, &mut row.area_ns);
        }
        drop(table);
        let mut table = lock(&self.endpoints);
        for row in endpoints.alive() {
            row.area_ns = row.flow.area(now);
            table.never_back(row.slot, &mut row.area_ns);
        }
        drop(table);
        Totals {
            at: now,
            colors: colors.into_rows(),
            endpoints: endpoints.into_rows(),
            routes: routes.into_rows().into_iter().map(|(_, row)| row).collect(),
            faults: self.reasons.iter().copied().zip(faults).collect(),
        }
    }
}

/// Totals of one kind of series while they are added, by the index of their slots.
struct Rows<R> {
    rows: Vec<Option<(u32, R)>>,
}

impl<R> Rows<R> {
    fn new<L>(table: &Mutex<Table<L>>, new: impl Fn(Slot, L) -> R) -> Self
    where
        L: Clone + Eq + std::hash::Hash,
    {
        let table = lock(table);
        let mut rows: Vec<_> = std::iter::repeat_with(|| None).take(table.len()).collect();
        for (slot, labels) in table.alive() {
            rows[slot.index()] = Some((slot.epoch(), new(slot, labels.clone())));
        }
        Self { rows }
    }

    fn add<C>(&mut self, entries: &[Entry<C>], mut add: impl FnMut(&mut R, &C)) {
        for (row, entry) in self.rows.iter_mut().zip(entries) {
            if let Some((epoch, row)) = row
                && *epoch == entry.epoch
            {
                add(row, &entry.cell);
            }
        }
    }

    fn alive(&mut self) -> impl Iterator<Item = &mut R> {
        self.rows.iter_mut().flatten().map(|(_, row)| row)
    }

    fn into_rows(self) -> Vec<R> {
        self.rows.into_iter().flatten().map(|(_, row)| row).collect()
    }
}

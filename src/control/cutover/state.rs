//! What others see of cutovers: admin shows it, metrics count it.
//!
//! Written by the driver as a whole, read by anyone without waiting.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::Serialize;

use crate::model::ObjectName;

use super::phase::{Note, Phase};
use super::receipt::{Receipt, Timestamp};

/// Every Service with colors, and what has been counted.
#[derive(Default, Debug)]
pub struct Board {
    /// By name; what `/api/v1/services/{ns}/{name}/cutover` shows.
    pub services: ArcSwap<BTreeMap<ObjectName, Arc<CutoverState>>>,
    /// Over all Services since the process started.
    pub totals: ArcSwap<Totals>,
}

/// Counters for the metrics.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Totals {
    /// `weir_cutover_total{result}`.
    pub results: BTreeMap<&'static str, u64>,
    /// `weir_cutover_rejected_total{reason}`.
    pub rejected: BTreeMap<Arc<str>, u64>,
    /// `weir_cutover_dropped_requests_total`.
    pub dropped: u64,
}

/// One Service with colors.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CutoverState {
    /// `namespace/name`.
    pub service: String,
    /// Where it stands (`weir_cutover_phase{service,phase}`).
    pub phase: Phase,
    /// The attempt's old color, while one runs.
    pub from: Option<Arc<str>>,
    /// The attempt's new color, while one runs.
    pub to: Option<Arc<str>>,
    /// What the user wants (`weir.dev/active`).
    pub active: Option<Arc<str>>,
    /// What is served; `null` until a route uses the Service.
    pub effective: Option<Arc<str>>,
    /// The object's version that this is about.
    pub version: Arc<str>,
    /// Every color.
    pub colors: BTreeMap<Arc<str>, ColorState>,
    /// What is missing before something happens: `NotEnoughReady 2/5`.
    pub waiting_for: Option<String>,
    /// CamelCase reason of the phase; empty when there is nothing to say.
    pub reason: Arc<str>,
    /// The reason with its facts.
    pub message: String,
    /// Colors that a preview may choose now.
    pub preview_open: Vec<Arc<str>>,
    /// The attempt that runs, else the last one.
    pub receipt: Option<Arc<Receipt>>,
    /// The last attempts that are over, oldest first.
    pub receipts: Vec<Arc<Receipt>>,
    /// What the owner was told, oldest first.
    pub notes: Vec<StampedNote>,
}

/// One color at the moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ColorState {
    /// Endpoints that requests can be sent to.
    pub ready: usize,
    /// Endpoints listed.
    pub total: usize,
    /// Requests and streams that have not ended.
    pub in_flight: u64,
    /// Long-lived streams among them.
    pub streams: u64,
}

/// A note and when it was made.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct StampedNote {
    /// When.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub note: Note,
}

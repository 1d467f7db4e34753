//! Weir: an edge load balancer and ingress proxy.

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod control;
pub mod drain;
pub mod model;
pub mod proxy;
pub mod telemetry;
pub mod tls;

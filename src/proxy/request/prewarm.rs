//! Connections that a cutover wants open before traffic moves.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use super::context::Context;
use super::upstream_h2;
use crate::model::Access;
use crate::proxy::backend::connect::{Connected, connect};
use crate::proxy::backend::{Backend, Color, Endpoint, PrewarmOrder};

/// Connections opened at most per endpoint when the number is left to us.
const AUTO: u32 = 4;

/// Which orders this worker has carried out or begun, by color.
#[derive(Default)]
pub struct Warmed(BTreeMap<(usize, u32), u32>);

impl Warmed {
    /// Begins what has been ordered since the last call.
    pub fn follow(&mut self, context: &Rc<Context>, backends: &[Arc<Backend>]) {
        let mut seen = BTreeMap::new();
        for backend in backends {
            for color in &backend.colors {
                let Some(order) = color.prewarm.order() else { continue };
                let slot = color.series.slot();
                let place = (slot.index(), slot.epoch());
                seen.insert(place, order.generation);
                if self.0.get(&place) != Some(&order.generation) {
                    context.spawn(carry_out(context.clone(), backend.clone(), color.clone(), order));
                }
            }
        }
        self.0 = seen;
    }
}

async fn carry_out(context: Rc<Context>, backend: Arc<Backend>, color: Arc<Color>, order: PrewarmOrder) {
    let endpoints: Vec<Arc<Endpoint>> = match backend.key.access {
        // There is nothing to open.
        Access::Udp => Vec::new(),
        Access::Tcp | Access::As(_) => color.endpoints.load().ready_members().cloned().collect(),
    };
    let wanted = order.per_endpoint.unwrap_or_else(|| {
        let effective = backend.effective();
        let open = effective.map_or(0, |effective| {
            let set = effective.endpoints.load();
            set.ready_members().map(|endpoint| context.pools.borrow().idle(endpoint.series.slot())).max().unwrap_or(0)
        });
        u32::try_from(open).unwrap_or(AUTO).clamp(1, AUTO)
    });
    for endpoint in endpoints {
        let slot = endpoint.series.slot();
        for _ in 0..wanted {
            let within = context.options.timeouts.connect;
            let host = endpoint.address.ip().to_string();
            let tls = backend.tls.as_ref();
            let connected = connect(&endpoint, &backend.desired.protocol, tls, &host, within, || false).await;
            match connected {
                Ok(Connected { io, h2: false }) => context.pools.borrow_mut().give(slot, io, context.now()),
                // One connection carries all requests there.
                Ok(Connected { io, h2: true }) => {
                    let _ = upstream_h2::establish(&context, slot, io).await;
                    break;
                }
                // The gates of the cutover judge endpoints; a connection that fails here is not needed.
                Err(_) => break,
            }
        }
    }
    color.prewarm.carried_out(order);
}

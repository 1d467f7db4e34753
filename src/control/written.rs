//! What the loop and the cutovers have to say, in the form in which it is written to an API server.

use std::sync::Arc;

use super::Report;
use super::cutover::{Board, CutoverState};
use super::provider::kubernetes::{Colored, Sources, Standing, Told};

/// Everything there is to write, as it is whenever it is asked for.
pub fn sources(report: &Arc<Report>, board: &Arc<Board>) -> Sources {
    let (statuses, report, board) = (report.statuses(), report.clone(), board.clone());
    Sources {
        statuses,
        verdicts: Box::new(move || report.verdicts()),
        colors: Box::new(move || {
            let services = board.services.load();
            services.iter().map(|(name, state)| (name.clone(), colored(state))).collect()
        }),
    }
}

fn colored(state: &CutoverState) -> Colored {
    let told = state.notes.iter().map(|stamped| Told {
        at: stamped.at.0,
        reason: stamped.note.event.name(),
        warning: stamped.note.event.warning(),
        text: match &*stamped.note.reason {
            "" => stamped.note.text.clone(),
            reason => format!("{reason}: {}", stamped.note.text),
        },
    });
    let last = state.receipt.as_ref().map(|receipt| {
        let (_, name) = receipt.cutover.split_once('/').unwrap_or(("", &receipt.cutover));
        name.to_owned()
    });
    let standing = Standing { effective: state.effective.clone(), phase: state.phase.name(), last };
    Colored { standing, told: told.collect() }
}

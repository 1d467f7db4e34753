//! Colors of a Service, from its annotations.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use super::annotations::{self, Settings, Standing, TABLE};
use super::reading::Reading;
use super::values;
use crate::model::{ColorSwitch, ObjectName};

/// One color of a Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Color {
    pub name: Arc<str>,
    /// Its child Service.
    pub child: ObjectName,
    /// Port of the child, when it is written.
    pub port: Option<u16>,
}

/// What the annotations of one Service come to.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Plan {
    pub settings: Settings,
    /// Empty without colors.
    pub colors: Vec<Color>,
    pub switch: Option<Arc<ColorSwitch>>,
}

/// Reads the annotations of a Service. `before` is what was read last: with a bad `weir.dev/colors` the colors of
/// before stay, so that what is served stays; if there are none, the Service is served as if it had no colors.
pub(super) fn plan(reading: &mut Reading<'_>, written: &BTreeMap<String, String>, before: Option<&Plan>) -> Plan {
    let settings = annotations::read(reading, written);
    let Some(text) = &settings.colors else {
        if settings.active.is_some() {
            let problem =
                "weir.dev/active has no effect without weir.dev/colors; the Service's own endpoints are served";
            let fix = "add weir.dev/colors: blue=web-v1,green=web-v2, or remove weir.dev/active";
            reading.warning("NoColors", annotations::field("weir.dev/active"), problem, fix);
        }
        return Plan { settings, ..Plan::default() };
    };
    let apex = reading.source.name.clone();
    let mut problem: Option<(Arc<str>, Arc<str>)> =
        settings.bad_policy.as_ref().map(|text| ("InvalidPolicy".into(), text.as_str().into()));
    let accepts = "write name=service[:port] for 2 to 8 colors, separated by commas, with Services of this namespace";
    let colors = match parse(text, &apex) {
        Ok(colors) => colors,
        Err(wrong) => {
            let field = annotations::field("weir.dev/colors");
            let kept = before.map(|plan| plan.colors.clone()).unwrap_or_default();
            let stays = if kept.is_empty() {
                "the Service is served as if it had no colors"
            } else {
                "the colors of before stay"
            };
            reading.error("InvalidColors", field, format!("{wrong}; {stays}"), accepts);
            problem = Some(("InvalidColors".into(), format!("weir.dev/colors: {wrong}; {accepts}").into()));
            kept
        }
    };
    if settings.color_label {
        let wrong = "weir.dev/colors and weir.dev/color-label are both there";
        let fix = "keep one of them";
        reading.error("AmbiguousMapping", annotations::field("weir.dev/color-label"), wrong, fix);
        problem = Some(("AmbiguousMapping".into(), format!("{wrong}; {fix}").into()));
    }
    // With a problem nothing moves: the colors of before stay, or the effective one could vanish from under the machine.
    let colors = match before {
        Some(before) if problem.is_some() && !before.colors.is_empty() => before.colors.clone(),
        _ => colors,
    };
    if settings.preview.is_none() && !settings.preview_from.is_empty() {
        let problem = "weir.dev/preview-from has no effect without weir.dev/preview";
        reading.warning("NoPreview", annotations::field("weir.dev/preview-from"), problem, "add weir.dev/preview");
    }
    let mut preview = settings.preview.clone();
    if let Some(preview) = &mut preview {
        preview.from = settings.preview_from.clone();
        if !written.contains_key("weir.dev/preview-from") {
            let problem = "everyone may see the color that is not active";
            let field = annotations::field("weir.dev/preview");
            reading.note("OpenPreview", field, problem, "limit it with weir.dev/preview-from: 10.0.0.0/8");
        }
    }
    // A list of networks that could not be read must not open the preview to everyone.
    if written.contains_key("weir.dev/preview-from") && settings.preview_from.is_empty() {
        preview = None;
    }
    let switch = (!colors.is_empty()).then(|| {
        Arc::new(ColorSwitch {
            service: apex,
            colors: colors.iter().map(|color| (color.name.clone(), color.child.clone())).collect(),
            active: settings.active.clone(),
            preview,
            policy: settings.policy.clone(),
            version: version(written),
            problem,
            hold: settings.hold,
            abort: settings.abort.clone(),
            retry: settings.retry.clone(),
        })
    });
    Plan { settings, colors, switch }
}

/// Names what the owner wrote. Not the resourceVersion: that changes with every annotation which Weir itself writes,
/// and would undo the latch of a failed attempt.
fn version(written: &BTreeMap<String, String>) -> Arc<str> {
    let mut hasher = foldhash::quality::FixedState::default().build_hasher();
    for (key, value) in written {
        let owned = annotations::own_key(key)
            .is_some_and(|key| !TABLE.iter().any(|known| known.key == key && known.standing == Standing::Written));
        if owned {
            (key, value).hash(&mut hasher);
        }
    }
    format!("{:016x}", hasher.finish()).into()
}

fn parse(text: &str, apex: &ObjectName) -> Result<Vec<Color>, String> {
    let mut colors: Vec<Color> = Vec::new();
    for part in text.split(',').map(str::trim) {
        let Some((name, child)) = part.split_once('=').map(|(name, child)| (name.trim(), child.trim())) else {
            return Err(format!("`{part}` is not name=service"));
        };
        if !values::is_label(name) {
            return Err(format!("`{name}` is not a color's name (lower-case letters, digits, hyphens)"));
        }
        let (child, port) = match child.split_once(':') {
            None => (child, None),
            Some((child, port)) => match port.parse::<u16>() {
                Ok(port) if port != 0 => (child, Some(port)),
                _ => return Err(format!("`{port}` is not a port")),
            },
        };
        if child.contains('/') {
            return Err(format!("`{child}` is in another namespace"));
        }
        if !values::is_label(child) {
            return Err(format!("`{child}` is not the name of a Service"));
        }
        if *child == *apex.name {
            return Err(format!("the color `{name}` is the Service itself"));
        }
        let child = ObjectName::new(apex.namespace.clone(), child);
        if colors.iter().any(|color| *color.name == *name) {
            return Err(format!("the color `{name}` is there twice"));
        }
        if colors.iter().any(|color| color.child == child && color.port == port) {
            return Err(format!("the Service `{}` is there twice", child.name));
        }
        colors.push(Color { name: name.into(), child, port });
    }
    match colors.len() {
        2..=8 => Ok(colors),
        count => Err(format!("{count} colors are written; 2 to 8 are needed")),
    }
}

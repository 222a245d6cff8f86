//! What a `SchedulingPolicy`'s schema alone cannot say, as rules that the API server evaluates.
//!
//! They say what `pointsman_core::config` checks when a policy is resolved, so that nonsense is refused where it is
//! written; what needs to know plugins' inner life, or texts of any length, is left to the status.

use std::time::Duration;

use pointsman_core::config::{BUILTIN_ENGINES, member_name};
use pointsman_core::policy::{PrefixCachePolicy, TelemetryPolicy};
use pointsman_core::registry::{PluginDef, Registry};
use serde_json::{Value, json};

/// A rule and where it stands.
pub(super) struct Placed {
    /// The path below the schema of `spec`, as `models[].targets`.
    pub(super) at: String,
    /// The rule, as it stands in `x-kubernetes-validations`.
    pub(super) rule: Value,
}

/// Names that mean something in the language, and are written otherwise when a member has them.
const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
    "while",
];

/// The ranges of durations and sizes, as in the configuration's own check.
pub(super) const RANGES: &[(&str, &str, &str)] = &[
    ("telemetry.interval.busy", "5ms", "1h"),
    ("telemetry.interval.idle", "5ms", "1h"),
    ("telemetry.timeout", "10ms", "1m"),
    ("telemetry.staleAfter", "50ms", "1h"),
];
pub(super) const MEMORY_LIMITS: (&str, &str) = ("1Mi", "16Gi");

/// Label selectors' requirements.
const REQUIREMENTS: &[&str] =
    &["profile.filters[].labelSelector.matchExpressions[]", "models[].targets[].endpointSelector.matchExpressions[]"];

/// All rules for the plugins of `registry`.
pub(super) fn all(registry: &Registry) -> Vec<Placed> {
    let mut all = telemetry();
    all.extend(prefix_cache());
    all.extend(models());
    all.extend(REQUIREMENTS.iter().map(|at| {
        let rule = "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)";
        placed(at, rule, "In and NotIn need at least one value, Exists and DoesNotExist take none", ".values")
    }));
    all.extend(entries("profile.filters[]", registry.filters()));
    all.extend(entries("profile.scorers[]", registry.scorers()));
    all.extend(entries("profile.picker", registry.pickers()));
    all
}

/// A plugin's parameters stand under its own name or under `parameters`, once, and nobody else's beside them.
fn entries<P: ?Sized>(at: &str, defs: &[PluginDef<P>]) -> Vec<Placed> {
    let mut rules = Vec::new();
    for def in defs.iter().filter(|def| has_parameters(def)) {
        let (name, member) = (def.name, member_name(def.name));
        let (escaped, field) = (escaped(&member), format!(".{member}"));
        let rule = format!("!has(self.{escaped}) || self.type == '{name}'");
        rules.push(placed(at, &rule, &format!("{member} holds the parameters of {name} alone"), &field));
        let rule = format!("!has(self.{escaped}) || !has(self.parameters)");
        rules.push(placed(at, &rule, &format!("give {member} or parameters, not both"), &field));
    }
    rules
}

/// Whether a plugin has a member of its own, which those without parameters do not.
fn has_parameters<P: ?Sized>(def: &PluginDef<P>) -> bool {
    (def.schema)().get("properties").and_then(Value::as_object).is_some_and(|properties| !properties.is_empty())
}

fn telemetry() -> Vec<Placed> {
    let default = TelemetryPolicy::default();
    let mut rules: Vec<_> = RANGES
        .iter()
        .map(|(at, least, most)| {
            let rule = format!("duration(self) >= duration('{least}') && duration(self) <= duration('{most}')");
            placed(at, &rule, &format!("outside of {least} to {most}"), "")
        })
        .collect();
    let idle = or_default("self.interval.idle", "has(self.interval) && has(self.interval.idle)", default.idle_interval);
    let timeout = or_default("self.timeout", "has(self.timeout)", default.timeout);
    let stale_after = or_default("self.staleAfter", "has(self.staleAfter)", default.stale_after);
    rules.push(placed(
        "telemetry",
        &format!("{timeout} <= {stale_after}"),
        &format!("timeout is longer than staleAfter ({:?} and {:?} when absent)", default.timeout, default.stale_after),
        ".timeout",
    ));
    rules.push(placed(
        "telemetry",
        &format!("{idle} < {stale_after}"),
        &format!(
            "idle is not shorter than staleAfter ({:?} and {:?} when absent): idle endpoints would always be stale",
            default.idle_interval, default.stale_after
        ),
        ".interval.idle",
    ));
    let busy = or_default("self.busy", "has(self.busy)", default.busy_interval);
    let idle = or_default("self.idle", "has(self.idle)", default.idle_interval);
    rules.push(placed(
        "telemetry.interval",
        &format!("{busy} <= {idle}"),
        &format!("busy is longer than idle ({:?} and {:?} when absent)", default.busy_interval, default.idle_interval),
        ".busy",
    ));
    let builtin: Vec<_> = BUILTIN_ENGINES.iter().map(|name| format!("'{name}'")).collect();
    rules.push(placed(
        "telemetry",
        &format!(
            "!has(self.engine) || self.engine in [{}] || (has(self.engines) && self.engines.exists(e, e.name == \
             self.engine))",
            builtin.join(", ")
        ),
        &format!("engine is none of {} and none of engines", BUILTIN_ENGINES.join(", ")),
        ".engine",
    ));
    rules.push(placed(
        "telemetry.engines[]",
        "has(self.waiting) || has(self.running) || has(self.kvCacheUsage)",
        "at least one of waiting, running and kvCacheUsage is needed",
        "",
    ));
    rules
}

fn prefix_cache() -> Vec<Placed> {
    let layout = PrefixCachePolicy::default().layout;
    let (least, most) = MEMORY_LIMITS;
    // A text that is no quantity is refused by its pattern already; comparing it would only add an error.
    let limit = format!(
        "!isQuantity(string(self)) || (quantity(string(self)).compareTo(quantity('{least}')) >= 0 && \
         quantity(string(self)).compareTo(quantity('{most}')) <= 0)"
    );
    let prompt = format!(
        "(has(self.maxPromptTokens) ? self.maxPromptTokens : {}) >= (has(self.blockTokens) ? self.blockTokens : {})",
        layout.max_prompt_tokens, layout.block_tokens
    );
    let message = "maxPromptTokens is less than one block of blockTokens: nothing would be remembered";
    vec![
        placed("prefixCache.memoryLimit", &limit, &format!("outside of {least} to {most}"), ""),
        placed("prefixCache", &prompt, message, ".maxPromptTokens"),
    ]
}

fn models() -> Vec<Placed> {
    let all_or_none = "self.all(target, has(target.weight)) || self.all(target, !has(target.weight))";
    vec![
        placed(
            "models[]",
            "has(self.priority) || (has(self.targets) && size(self.targets) > 0)",
            "targets or priority is needed: the rule says nothing",
            ".targets",
        ),
        placed("models[].targets", all_or_none, "give a weight to all targets, or to none", ""),
    ]
}

/// A duration, or what counts when it is absent.
fn or_default(value: &str, present: &str, default: Duration) -> String {
    format!("({present} ? duration({value}) : duration('{}ms'))", default.as_millis())
}

fn placed(at: &str, rule: &str, message: &str, field: &str) -> Placed {
    let mut rule = json!({"rule": rule, "message": message});
    if !field.is_empty() {
        rule["fieldPath"] = field.into();
    }
    Placed { at: at.to_owned(), rule }
}

fn escaped(member: &str) -> String {
    if RESERVED.contains(&member) { format!("__{member}__") } else { member.to_owned() }
}

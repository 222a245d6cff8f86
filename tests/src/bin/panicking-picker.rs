//! A picker with a plugin of its own, which panics for one model: what a plugin's defect costs is seen from outside.

use pointsman_core::registry::{NoParameters, PluginDef, Registry, no_parameters_schema, parse};
use pointsman_core::scorers::Scorer;
use pointsman_core::signals::Signals;

#[derive(Debug)]
struct PanickingScorer;

impl Scorer for PanickingScorer {
    fn score(&self, signals: &Signals<'_>, scores: &mut [f32]) {
        let model = signals.facts.model.as_ref();
        assert!(model.is_none_or(|model| &*model.name != "panic"), "on purpose");
        scores.fill(1.0);
    }
}

const DEF: PluginDef<dyn Scorer> = PluginDef {
    name: "panicking-scorer",
    summary: "Panics for the model \"panic\".",
    schema: no_parameters_schema,
    build: |parameters| parse::<NoParameters>(parameters).map(|_| Box::new(PanickingScorer) as _),
};

fn main() -> std::process::ExitCode {
    pointsman::run(Registry::default().with_scorer(DEF))
}

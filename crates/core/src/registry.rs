//! The registry: which plugins a configuration may name. A value handed to whoever builds policies, never a global.

use std::ops::RangeInclusive;

use schemars::{JsonSchema, Schema};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::filters::{self, Filter, FilterDef};
use crate::pickers::{self, Picker, PickerDef};
use crate::scorers::{self, Scorer, ScorerDef};

/// One plugin under its name: what it does, which parameters it takes, how it is made.
pub struct PluginDef<P: ?Sized> {
    /// The `type` in a configuration.
    pub name: &'static str,
    /// What it does, in a sentence or two, with its formula.
    pub summary: &'static str,
    /// The JSON Schema of its parameters.
    pub schema: fn() -> Schema,
    /// Makes one from its parameters; `{}` always works.
    pub build: fn(Value) -> Result<Box<P>, ParameterError>,
}

impl<P: ?Sized> Clone for PluginDef<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: ?Sized> Copy for PluginDef<P> {}

impl<P: ?Sized> std::fmt::Debug for PluginDef<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PluginDef").field(&self.name).finish()
    }
}

/// A parameter that a plugin refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParameterError {
    /// The parameter's name, empty when all parameters together are meant.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// The plugins of one process.
#[derive(Clone, Debug)]
pub struct Registry {
    filters: Vec<FilterDef>,
    scorers: Vec<ScorerDef>,
    pickers: Vec<PickerDef>,
}

impl Default for Registry {
    /// The plugins that come with Pointsman.
    fn default() -> Self {
        Self {
            filters: filters::BUILTIN.to_vec(),
            scorers: scorers::BUILTIN.to_vec(),
            pickers: pickers::BUILTIN.to_vec(),
        }
    }
}

impl Registry {
    /// Adds a filter, in place of one of the same name.
    pub fn with_filter(mut self, def: PluginDef<dyn Filter>) -> Self {
        put(&mut self.filters, def);
        self
    }

    /// Adds a scorer, in place of one of the same name.
    pub fn with_scorer(mut self, def: PluginDef<dyn Scorer>) -> Self {
        put(&mut self.scorers, def);
        self
    }

    /// Adds a picker, in place of one of the same name.
    pub fn with_picker(mut self, def: PluginDef<dyn Picker>) -> Self {
        put(&mut self.pickers, def);
        self
    }

    /// All filters, by name.
    pub fn filters(&self) -> &[FilterDef] {
        &self.filters
    }

    /// All scorers, by name.
    pub fn scorers(&self) -> &[ScorerDef] {
        &self.scorers
    }

    /// All pickers, by name.
    pub fn pickers(&self) -> &[PickerDef] {
        &self.pickers
    }
}

fn put<P: ?Sized>(defs: &mut Vec<PluginDef<P>>, def: PluginDef<P>) {
    match defs.binary_search_by_key(&def.name, |known| known.name) {
        Ok(at) => defs[at] = def,
        Err(at) => defs.insert(at, def),
    }
}

/// The parameters of a plugin that takes none.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoParameters {}

/// The schema of [`NoParameters`].
pub fn no_parameters_schema() -> Schema {
    schema_of::<NoParameters>()
}

/// The schema of a plugin's parameters.
pub fn schema_of<P: JsonSchema>() -> Schema {
    schemars::schema_for!(P)
}

/// Reads a plugin's parameters; nothing given is `{}`.
pub fn parse<P: DeserializeOwned>(parameters: Value) -> Result<P, ParameterError> {
    let parameters = if parameters.is_null() { Value::Object(serde_json::Map::new()) } else { parameters };
    P::deserialize(parameters).map_err(|error| ParameterError { field: String::new(), message: error.to_string() })
}

/// Refuses a value outside of `range`.
pub fn in_range<T: PartialOrd + std::fmt::Display>(
    field: &str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<(), ParameterError> {
    if range.contains(&value) {
        return Ok(());
    }
    let message = format!("{value} is outside of {} to {}", range.start(), range.end());
    Err(ParameterError { field: field.into(), message })
}

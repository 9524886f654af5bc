//! Which devices of this machine are exported: what is there, and what the rules say of it.
//!
//! On core 0, which decides alone; what is there it hears from the thread in
//! [`watch`](super::watch).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::device::real;
use crate::ledger::Listed;
use crate::ledger::policy::{Backend, Entry, Policy, Rule};
use crate::limits;
use crate::network::Cidr;
use crate::serve::exports::Exports;
use crate::serve::watch::{Command, Found, Watch};

/// The rules of a server. The first that means a device decides: those made while it runs come
/// first, then those of its command line, then those of its file.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Made while the server runs.
    pub edits: Vec<Entry>,
    /// Of the command line.
    pub typed: Vec<Entry>,
    /// Of the configuration file.
    pub file: Vec<Entry>,
}

impl Rules {
    /// All of them, in order, with where they come from.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &Entry)> {
        let lists = [("runtime", &self.edits), ("command line", &self.typed), ("file", &self.file)];
        lists.into_iter().flat_map(|(origin, list)| list.iter().map(move |entry| (origin, entry)))
    }

    fn policy(&self) -> Policy {
        Policy { entries: self.all().map(|(_, entry)| entry.clone()).collect() }
    }
}

/// Why a rule cannot be made or taken back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// No such rule.
    #[error("there is no rule {0}; see: usbip-fast policy list")]
    Unknown(Rule),
    /// It was not made while the server ran.
    #[error("{rule} is a rule of the {origin}; change it there, or type: usbip-fast unbind {rule}")]
    NotOurs {
        /// The rule.
        rule: Rule,
        /// Where it comes from.
        origin: &'static str,
    },
    /// It is there already.
    #[error("there is a rule {0} already; see: usbip-fast policy list")]
    Known(Rule),
    /// More than anybody needs.
    #[error("there are {max} rules already; remove some", max = limits::POLICY_RULES)]
    TooMany,
}

/// The devices of this machine.
#[derive(Default)]
pub struct Inventory {
    /// Bus ids that are exported whatever they are, at the user's word.
    named: Vec<String>,
    rules: Rules,
    policy: Policy,
    /// Taken even when they are in use.
    force: bool,
    /// The configuration file, to be read again.
    file: Option<PathBuf>,
    /// Where `rules.edits` are kept.
    state: Option<PathBuf>,
    present: Vec<Arc<Found>>,
    exported: BTreeMap<String, Exported>,
    /// Why a device is not exported, as it was logged last.
    told: BTreeMap<String, String>,
    watch: Option<Watch>,
}

struct Exported {
    found: Arc<Found>,
    terms: Terms,
}

/// What a rule says of a device that is exported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Terms {
    networks: Vec<Cidr>,
    backend: Backend,
    /// At the user's word, for this very bus id.
    is_named: bool,
}

impl Inventory {
    /// What is to be exported.
    #[must_use]
    pub fn new(named: &[String], rules: Rules, force: bool) -> Self {
        let policy = rules.policy();
        Self { named: named.to_vec(), rules, policy, force, ..Self::default() }
    }

    /// The files of the server.
    #[must_use]
    pub fn with_files(mut self, file: Option<PathBuf>, state: Option<PathBuf>) -> Self {
        (self.file, self.state) = (file, state);
        self
    }

    /// Whether devices of this machine matter at all.
    #[must_use]
    pub fn needs_devices(&self) -> bool {
        !self.named.is_empty() || self.rules.all().any(|(_, entry)| entry.allow)
    }

    /// The rules.
    #[must_use]
    pub const fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Whether rules that are made now are there after the server has been started again.
    #[must_use]
    pub const fn is_kept(&self) -> bool {
        self.state.is_some()
    }

    /// From now on devices are looked at by this thread.
    pub fn watch_by(&mut self, watch: Watch) {
        if self.needs_devices() {
            watch.tell(Command::Look);
        }
        self.watch = Some(watch);
    }

    /// Reads the file again, if there is one.
    pub fn reload(&self) {
        match (&self.file, &self.watch) {
            (Some(file), Some(watch)) => watch.tell(Command::Reload(file.clone())),
            _ => tracing::info!("there is no configuration file to read again (--config FILE)"),
        }
    }

    /// The file was read again. What is wrong with it changes nothing.
    pub fn set_file_rules(&mut self, read: Result<Vec<Entry>, String>, exports: &mut Exports) {
        match read {
            Ok(entries) => {
                tracing::info!(rules = entries.len(), "the configuration was read again");
                self.rules.file = entries;
                self.rules_changed(exports);
            }
            Err(error) => {
                for line in error.lines() {
                    tracing::error!("{line}");
                }
                tracing::error!("the rules stay as they were");
            }
        }
    }

    /// Adds a rule before all others.
    ///
    /// # Errors
    ///
    /// See [`EditError`].
    pub fn add(&mut self, entry: Entry, exports: &mut Exports) -> Result<(), EditError> {
        if self.rules.edits.contains(&entry) {
            return Err(EditError::Known(entry.rule));
        }
        if self.rules.edits.len() >= limits::POLICY_RULES {
            return Err(EditError::TooMany);
        }
        // The same devices with other terms: the new word holds.
        self.rules.edits.retain(|edit| edit.rule != entry.rule);
        self.rules.edits.insert(0, entry);
        self.edited(exports);
        Ok(())
    }

    /// Takes a rule back that was added.
    ///
    /// # Errors
    ///
    /// See [`EditError`].
    pub fn remove(&mut self, rule: &Rule, exports: &mut Exports) -> Result<(), EditError> {
        let before = self.rules.edits.len();
        self.rules.edits.retain(|edit| edit.rule != *rule);
        if self.rules.edits.len() == before {
            let mut all = self.rules.all();
            return Err(match all.find(|(_, entry)| entry.rule == *rule) {
                Some((origin, _)) => EditError::NotOurs { rule: rule.clone(), origin },
                None => EditError::Unknown(rule.clone()),
            });
        }
        self.edited(exports);
        Ok(())
    }

    /// Exports what a rule means: like [`add`](Self::add), but where it is exported anyway nothing
    /// has to be done.
    ///
    /// # Errors
    ///
    /// See [`EditError`].
    pub fn bind(&mut self, rule: Rule, exports: &mut Exports) -> Result<(), EditError> {
        self.rules.edits.retain(|edit| edit.rule != rule);
        let mut all = self.rules.all();
        let is_exported = all.find(|(_, entry)| entry.rule == rule).is_some_and(|it| it.1.allow);
        drop(all);
        if is_exported {
            self.edited(exports);
            return Ok(());
        }
        self.add(Entry::export(rule), exports)
    }

    /// No longer exports what a rule means, wherever the rule comes from.
    ///
    /// # Errors
    ///
    /// See [`EditError`].
    pub fn unbind(&mut self, rule: Rule, exports: &mut Exports) -> Result<(), EditError> {
        let is_known = self.rules.all().any(|(_, entry)| entry.allow && entry.rule == rule);
        if !is_known {
            return Err(EditError::Unknown(rule));
        }
        self.rules.edits.retain(|edit| edit.rule != rule);
        if self.rules.all().any(|(_, entry)| entry.allow && entry.rule == rule) {
            return self.add(Entry { allow: false, ..Entry::export(rule) }, exports);
        }
        self.edited(exports);
        Ok(())
    }

    fn edited(&mut self, exports: &mut Exports) {
        if let (Some(state), Some(watch)) = (&self.state, &self.watch) {
            watch.tell(Command::Save(state.clone(), self.rules.edits.clone()));
        }
        self.rules_changed(exports);
    }

    fn rules_changed(&mut self, exports: &mut Exports) {
        self.policy = self.rules.policy();
        if let Some(watch) = self.watch.as_ref().filter(|_| self.needs_devices()) {
            watch.tell(Command::Look);
        }
        self.reconcile(exports);
    }

    /// What is there now.
    pub fn set_present(&mut self, present: Vec<Arc<Found>>, exports: &mut Exports) {
        self.present = present;
        self.reconcile(exports);
    }

    /// Makes what is exported what it should be. Sessions keep the devices they have.
    fn reconcile(&mut self, exports: &mut Exports) {
        let present = std::mem::take(&mut self.present);
        let mut gone = std::mem::take(&mut self.exported);
        for found in &present {
            let bus_id = &found.description.bus_id;
            let before = gone.remove(bus_id);
            let kept = before.as_ref().filter(|before| is_kept_by_session(before, found, exports));
            // What a session has is judged by what it was when it was captured.
            let judged = kept.map_or(found, |before| &before.found);
            let Some(terms) = self.terms(judged) else {
                if let Some(before) = before {
                    tracing::info!("{bus_id} is exported no more");
                    drop(before);
                    exports.unplug(bus_id);
                }
                self.told.remove(bus_id);
                continue;
            };
            if kept.is_none() && self.is_refused(found, &terms, before.is_some()) {
                if before.is_some() {
                    exports.unplug(bus_id);
                }
                continue;
            }
            let judged = Arc::clone(judged);
            let now = Exported { found: judged, terms };
            let is_as_before = before.is_some_and(|before| {
                Arc::ptr_eq(&before.found, &now.found) && before.terms == now.terms
            });
            if !is_as_before {
                now.plug(self.force, exports);
            }
            self.exported.insert(bus_id.clone(), now);
        }
        for bus_id in gone.into_keys() {
            tracing::info!("{bus_id} is not there");
            self.told.remove(&bus_id);
            exports.unplug(&bus_id);
        }
        self.present = present;
    }

    fn terms(&self, found: &Found) -> Option<Terms> {
        if self.named.contains(&found.description.bus_id) {
            return Some(Terms { is_named: true, ..Terms::default() });
        }
        let entry = self.policy.decide(&found.description)?;
        let Entry { networks, backend, .. } = entry.clone();
        Some(Terms { networks, backend, is_named: false })
    }

    /// Whether this machine needs the device itself; each reason is logged once.
    fn is_refused(&mut self, found: &Found, terms: &Terms, is_exported: bool) -> bool {
        let bus_id = &found.description.bus_id;
        let Some(reason) = &found.in_use else {
            self.told.remove(bus_id);
            return false;
        };
        // Named by the user, it stays listed; who opens it is told the same reason.
        if terms.is_named && is_exported {
            return false;
        }
        if self.told.get(bus_id) != Some(reason) {
            tracing::warn!("not exported: {bus_id} {reason}");
            self.told.insert(bus_id.clone(), reason.clone());
        }
        true
    }
}

impl Exported {
    fn plug(&self, force: bool, exports: &mut Exports) {
        let description = self.found.description.clone();
        let is_new = exports.ledger().get(&description.bus_id).is_none();
        if is_new {
            tracing::info!(
                "exporting {}: {:04x}:{:04x} {}",
                description.bus_id,
                description.vendor,
                description.product,
                description.product_name
            );
        }
        let export = real::adopt(description.clone(), force);
        let Terms { networks, backend, .. } = self.terms.clone();
        let listed = Listed { networks, backend, ..Listed::real(description) };
        exports.plug(listed, export);
    }
}

/// Whether a session has the device, and it is still the same one.
fn is_kept_by_session(before: &Exported, found: &Found, exports: &Exports) -> bool {
    let bus_id = &found.description.bus_id;
    let is_held = exports.ledger().held().any(|(held, _)| held == bus_id);
    let identity = |found: &Found| Listed::real(found.description.clone()).identity();
    is_held && identity(&before.found) == identity(found)
}

#[cfg(test)]
mod tests;

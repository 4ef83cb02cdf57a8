//! The table of CloudStack's commands in `cloudstack-client`, from the facts about its API.
//!
//! The committed facts have one command and one kind of record on a line; `--cloudstack-model`
//! takes them anew from a full list.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// The committed facts, from the root of the workspace.
const FACTS: &str = "xtask/data/cloudstack.json";
/// The file that is written, from the root of the workspace.
const OUTPUT: &str = "cloudstack-client/src/commands/table.rs";

/// What is committed.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Facts {
    source: String,
    commands: BTreeMap<String, Command>,
    /// Kinds of records: the names and types of their fields. A type `#name` is a record again,
    /// `[type]` a list.
    records: BTreeMap<String, Vec<(String, String)>>,
}

/// One command.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Command {
    /// It starts a job.
    #[serde(default, rename = "async", skip_serializing_if = "is_false")]
    asynchronous: bool,
    /// The job's first answer has the id of what is made.
    #[serde(default, skip_serializing_if = "is_false")]
    creates: bool,
    /// Name, type, whether it is required, and since when it is there if not always.
    params: Vec<Vec<Value>>,
    /// Whether clients send it by POST, where a client is known that does or does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    post: Option<bool>,
    /// The root key of its answer, if it is not made of the command's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    root: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    since: String,
    /// The key of the list in its answer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    list: String,
    /// The record that it answers with, or lists.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    record: String,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// Writes the table, or tells whether the committed one is what would be written.
pub(super) fn run(root: &Path, check: bool, model: Option<&Path>) -> Result<(), String> {
    let path = root.join(FACTS);
    let facts = match model {
        Some(full) => Facts::of_model(&read::<Value>(full)?)?,
        None => read::<Facts>(&path)?,
    };
    let text = facts.text()?;
    let table = super::rustfmt(&facts.table(&super::hex(&Sha256::digest(&text)))?)?;
    if check {
        let same =
            |path: &str, text: &str| fs::read_to_string(root.join(path)).is_ok_and(|t| t == text);
        for (path, text) in [(FACTS, &text), (OUTPUT, &table)] {
            if !same(path, text) {
                return Err(format!(
                    "{path} is not what the generator writes; run `cargo xtask codegen`"
                ));
            }
        }
        println!("codegen: {OUTPUT} is what the generator writes");
        return Ok(());
    }
    for (path, text) in [(FACTS, &text), (OUTPUT, &table)] {
        fs::write(root.join(path), text).map_err(|e| format!("cannot write {path}: {e}"))?;
    }
    println!("codegen: {} commands in {OUTPUT}", facts.commands.len());
    Ok(())
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, String> {
    let bytes = fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    serde_json::from_slice(&bytes).map_err(|e| format!("{}: {e}", path.display()))
}

impl Facts {
    fn of_model(model: &Value) -> Result<Self, String> {
        let part =
            |name: &str| model[name].as_object().ok_or_else(|| format!("the model has no {name}"));
        let fields = |value: &Value| {
            serde_json::from_value::<Vec<(String, String)>>(value.clone()).unwrap_or_default()
        };
        let mut records: BTreeMap<_, _> =
            part("structs")?.iter().map(|(name, value)| (name.clone(), fields(value))).collect();
        let mut commands = BTreeMap::new();
        for (name, value) in part("apis")? {
            let answer = match &value["r"] {
                Value::String(name) => {
                    records.get(name.trim_start_matches('#')).cloned().unwrap_or_default()
                }
                inline => fields(inline),
            };
            let mut command = Command::of_model(name, value);
            let own = format!("{name} answer");
            (command.list, command.record) = match element(name, &answer) {
                Some((key, kind)) => (key, kind),
                None if answer.is_empty() => Default::default(),
                None => (String::new(), own.clone()),
            };
            if command.record == own {
                records.insert(own, answer);
            }
            commands.insert(name.clone(), command);
        }
        let source = model["meta"]["src"].as_str().unwrap_or("unknown").to_owned();
        let mut facts = Self { source, commands, records };
        facts.share();
        Ok(facts)
    }

    /// Gives records with the same fields one name, until none is left that is there twice, and
    /// drops what nothing refers to.
    fn share(&mut self) {
        loop {
            let mut first: BTreeMap<&[(String, String)], &str> = BTreeMap::new();
            let mut other = BTreeMap::new();
            for (name, fields) in &self.records {
                match first.get(fields.as_slice()) {
                    Some(one) => drop(other.insert(name.clone(), (*one).to_owned())),
                    None => drop(first.insert(fields, name)),
                }
            }
            if other.is_empty() {
                break;
            }
            self.records.retain(|name, _| !other.contains_key(name));
            for command in self.commands.values_mut() {
                if let Some(one) = other.get(&command.record) {
                    command.record.clone_from(one);
                }
            }
            for (_, kind) in self.records.values_mut().flatten() {
                if let Some(one) = record_of(kind).and_then(|name| other.get(name)) {
                    *kind =
                        if kind.starts_with('[') { format!("[#{one}]") } else { format!("#{one}") };
                }
            }
        }
        let mut used: Vec<String> = self.commands.values().map(|c| c.record.clone()).collect();
        let mut known = std::collections::BTreeSet::new();
        while let Some(name) = used.pop() {
            if known.insert(name.clone()) {
                let fields = self.records.get(&name).into_iter().flatten();
                used.extend(fields.filter_map(|(_, kind)| record_of(kind).map(str::to_owned)));
            }
        }
        self.records.retain(|name, _| known.contains(name));
    }

    /// One command and one record on a line, so that a change of the API is a change of lines.
    fn text(&self) -> Result<String, String> {
        fn lines<T: Serialize>(map: &BTreeMap<String, T>) -> Result<String, String> {
            let line = |(name, entry)| {
                let entry =
                    serde_json::to_string(entry).map_err(|e: serde_json::Error| e.to_string())?;
                Ok(format!("\"{name}\":{entry}"))
            };
            Ok(map.iter().map(line).collect::<Result<Vec<_>, String>>()?.join(",\n"))
        }
        let source = Value::from(self.source.as_str());
        let (commands, records) = (lines(&self.commands)?, lines(&self.records)?);
        Ok(format!(
            "{{\n\"source\":{source},\n\"commands\":{{\n{commands}\n}},\n\"records\":{{\n{records}\n}}\n}}\n"
        ))
    }

    fn table(&self, digest: &str) -> Result<String, String> {
        let mut text = format!(
            "//! Written by `cargo xtask codegen` of the facts with the SHA-256\n//! {digest}.\n\n\
             use super::Command;\nuse super::flags::*;\n\n\
             /// By name, in the order of bytes.\n\
             pub(super) static TABLE: [Command; {}] = [\n",
            self.commands.len()
        );
        for (name, command) in &self.commands {
            let flags: Vec<_> = [
                (command.asynchronous, "ASYNC"),
                (command.creates, "CREATES"),
                (command.is_post(name), "POST"),
                (command.params.iter().any(|param| param[0] == "page"), "PAGED"),
                (command.is_read(name), "READS"),
            ]
            .into_iter()
            .filter_map(|(on, flag)| on.then_some(flag))
            .collect();
            let flags = if flags.is_empty() { "NONE".to_owned() } else { flags.join(" | ") };
            writeln!(
                text,
                "Command::new({name:?}, {flags}, {:?}, {:?}, {:?}),",
                command.root, command.list, command.since
            )
            .map_err(|e| e.to_string())?;
        }
        text.push_str("];\n");
        Ok(text)
    }
}

impl Command {
    fn of_model(name: &str, value: &Value) -> Self {
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let params = value["p"].as_array().into_iter().flatten().map(|param| {
            let mut facts: Vec<Value> = (0..3).map(|at| param[at].clone()).collect();
            facts.extend(param.get(4).filter(|since| since.is_string()).cloned());
            facts
        });
        let regular = format!("{}response", name.to_lowercase());
        Self {
            asynchronous: value["a"] == 1,
            creates: value["c"] == 1,
            params: params.collect(),
            post: value.get("post").map(|post| *post == 1),
            root: Some(text("k")).filter(|root| *root != regular).unwrap_or_default(),
            since: text("s"),
            ..Self::default()
        }
    }

    /// Whether a server that enforces it wants POST. It has a short list of names that do not say
    /// that they look, which the clients follow; the other commands go by the rule for names.
    fn is_post(&self, name: &str) -> bool {
        self.post.unwrap_or_else(|| !looks(name))
    }

    /// Whether it changes nothing, so that it can be sent any number of times.
    fn is_read(&self, name: &str) -> bool {
        !self.asynchronous && !CHANGES.contains(&name) && (looks(name) || LOOKS.contains(&name))
    }
}

/// What the server takes for a look by its name.
fn looks(name: &str) -> bool {
    ["get", "list", "query", "find"].iter().any(|verb| name.starts_with(verb))
}

/// Commands whose names do not say that they only look.
const LOOKS: [&str; 13] = [
    "cloudianIsEnabled",
    "isAccountAllowedToCreateOfferingsWithTags",
    "quotaBalance",
    "quotaCreditsList",
    "quotaEmailTemplateList",
    "quotaIsEnabled",
    "quotaListEmailConfiguration",
    "quotaPresetVariablesList",
    "quotaStatement",
    "quotaSummary",
    "quotaTariffList",
    "readyForShutdown",
    "searchLdap",
];

/// Commands that change something though their names say that they look: what is uploaded to is
/// made, and an identity is switched.
const CHANGES: [&str; 4] = [
    "getUploadParamsForIso",
    "getUploadParamsForTemplate",
    "getUploadParamsForVolume",
    "listAndSwitchSamlAccount",
];

/// The key and the record of a list in an answer. One command has two: what it lists without
/// being told more has its own name.
fn element(command: &str, answer: &[(String, String)]) -> Option<(String, String)> {
    let counted = answer.iter().any(|(name, _)| name == "count");
    let mut lists = answer.iter().filter(|(_, kind)| kind.starts_with('['));
    let list = match command {
        "listLoadBalancerRuleInstances" => {
            lists.find(|(name, _)| name == "loadbalancerruleinstance")
        }
        _ => lists.next(),
    };
    let (key, kind) = list.filter(|_| counted)?;
    Some((key.clone(), record_of(kind).unwrap_or_default().to_owned()))
}

fn record_of(kind: &str) -> Option<&str> {
    kind.trim_start_matches('[').trim_end_matches(']').strip_prefix('#')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let model = serde_json::json!({
            "meta": {"src": "a test"},
            "apis": {
                "listToys": {"a": 0, "p": [["page", "integer", 0]], "r": "#ListToysResponse", "post": 0},
                "findToys": {"a": 0, "p": [], "r": "#FindToysResponse"},
                "windToy": {"a": 1, "c": 1, "s": "4.6", "k": "woundtoy", "r": "#WindToyResponse",
                    "p": [["id", "uuid", 1, 255, "4.7", "id[N]"]]},
            },
            "structs": {
                "ListToysResponse": [["count", "integer"], ["toy", "[#Toy]"]],
                "FindToysResponse": [["count", "integer"], ["toy", "[#FoundToy]"]],
                "Toy": [["id", "string"], ["spring", "#Spring"]],
                "FoundToy": [["id", "string"], ["spring", "#FoundToySpring"]],
                "Spring": [["id", "string"]],
                "FoundToySpring": [["id", "string"]],
                "WindToyResponse": [["id", "string"], ["spring", "#Spring"]],
                "Nobody": [["id", "string"], ["x", "string"]],
            },
        });
        Facts::of_model(&model).unwrap()
    }

    #[test]
    fn the_same_records_are_one_and_unused_ones_are_gone() {
        let facts = facts();
        assert_eq!(facts.records.len(), 2, "{:?}", facts.records);
        assert_eq!(facts.commands["listToys"].record, facts.commands["windToy"].record);
        assert_eq!(facts.commands["findToys"].list, "toy");
    }

    #[test]
    fn a_command_is_a_line_of_the_table() {
        let table = facts().table("digest").unwrap();
        for line in [
            "Command::new(\"findToys\", READS, \"\", \"toy\", \"\"),",
            "Command::new(\"listToys\", PAGED | READS, \"\", \"toy\", \"\"),",
            "Command::new(\"windToy\", ASYNC | CREATES | POST, \"woundtoy\", \"\", \"4.6\"),",
        ] {
            assert!(table.contains(line), "{table}");
        }
    }

    #[test]
    fn the_facts_are_the_facts_again() {
        let text = facts().text().unwrap();
        let again: Facts = serde_json::from_str(&text).unwrap();
        assert_eq!(again.text().unwrap(), text);
    }

    #[test]
    fn the_committed_table_is_what_the_generator_writes() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        run(root, true, None).unwrap();
    }
}

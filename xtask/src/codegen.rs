//! `codegen`: writes the class modules of `xenapi` from a model of the API, and the table of
//! commands of `cloudstack-client`.
//!
//! The facts that are used (names, types, releases, roles) are committed, one class on a line;
//! `--model` takes them anew from a full model. `--check` tells whether the committed text is what
//! the generator writes of the committed facts.

mod cloudstack;
mod model;
mod names;
mod render;
mod select;
mod words;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest as _, Sha256};

use model::Model;

/// Arguments of `codegen`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Change nothing; fail if the committed text differs from what would be written.
    #[arg(long)]
    check: bool,
    /// Takes the facts anew from this model of the API.
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// Takes the facts about CloudStack's commands anew from this list of them.
    #[arg(long, value_name = "PATH")]
    cloudstack_model: Option<PathBuf>,
}

/// The committed facts, from the root of the workspace.
const FACTS: &str = "xtask/data/xenapi.json";
/// The folder that is written, from the root of the workspace.
const OUTPUT: &str = "xenapi/src/api";
/// The record of what the text was made from.
const LOCK: &str = "provenance.lock";

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("no workspace root")?;
    cloudstack::run(root, args.check, args.cloudstack_model.as_deref())?;
    let folder = root.join(OUTPUT);
    let path = args.model.clone().unwrap_or_else(|| root.join(FACTS));
    let model = read(&path)?;
    let facts = model.compact()?;
    let files = generate(&model, &hex(&Sha256::digest(&facts)))?;
    if args.check {
        if fs::read_to_string(root.join(FACTS)).ok().as_ref() != Some(&facts) {
            return Err(format!("{FACTS} differs from {}; run codegen with it", path.display()));
        }
        return check(&folder, &files);
    }
    fs::create_dir_all(root.join(FACTS).with_file_name("")).map_err(|e| format!("{FACTS}: {e}"))?;
    fs::write(root.join(FACTS), facts).map_err(|e| format!("cannot write {FACTS}: {e}"))?;
    write(&folder, &files)
}

fn read(path: &Path) -> Result<Model, String> {
    let bytes = fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let mut model: Model = serde_json::from_slice(&bytes)
        .map_err(|e| format!("{} is not a model of the API: {e}", path.display()))?;
    model.prune();
    Ok(model)
}

/// All files by name, formatted.
fn generate(model: &Model, digest: &str) -> Result<BTreeMap<String, String>, String> {
    let mut files = BTreeMap::new();
    for (name, text) in render::all(model)? {
        files.insert(name, rustfmt(&text)?);
    }
    let source = model.meta.get("source").map_or("unknown", String::as_str);
    let version = model.meta.get("api_version").map_or("unknown", String::as_str);
    files.insert(
        LOCK.to_owned(),
        format!(
            "# What `cargo xtask codegen` made this folder from.\n\
             sha256 = \"{digest}\"\napi_version = \"{version}\"\nsource = \"{source}\"\n"
        ),
    );
    Ok(files)
}

/// Compares with the committed text and names every file that differs.
fn check(folder: &Path, files: &BTreeMap<String, String>) -> Result<(), String> {
    let mut different: Vec<&str> = files
        .iter()
        .filter(|(name, text)| fs::read_to_string(folder.join(name)).ok().as_ref() != Some(*text))
        .map(|(name, _)| name.as_str())
        .collect();
    let stray = strays(folder, files)?;
    different.extend(stray.iter().map(String::as_str));
    if different.is_empty() {
        println!("codegen: {} files are what the generator writes", files.len());
        return Ok(());
    }
    Err(format!(
        "{OUTPUT} is not what the generator writes ({}); run `cargo xtask codegen`",
        different.join(", ")
    ))
}

/// Writes the files that differ and removes what is no longer generated.
fn write(folder: &Path, files: &BTreeMap<String, String>) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|e| format!("cannot create {OUTPUT}: {e}"))?;
    for (name, text) in files {
        let path = folder.join(name);
        if fs::read_to_string(&path).ok().as_ref() != Some(text) {
            fs::write(&path, text).map_err(|e| format!("cannot write {OUTPUT}/{name}: {e}"))?;
        }
    }
    for name in strays(folder, files)? {
        fs::remove_file(folder.join(&name))
            .map_err(|e| format!("cannot remove {OUTPUT}/{name}: {e}"))?;
    }
    println!("codegen: {} files in {OUTPUT}", files.len());
    Ok(())
}

/// Files in the folder that the generator did not write: the folder is its own.
fn strays(folder: &Path, files: &BTreeMap<String, String>) -> Result<Vec<String>, String> {
    let entries = fs::read_dir(folder).map_err(|e| format!("cannot list {OUTPUT}: {e}"))?;
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| !files.contains_key(name))
        .collect())
}

/// Formats as the rest of the repository is formatted.
fn rustfmt(text: &str) -> Result<String, String> {
    let mut child = Command::new("rustfmt")
        .args(["--edition", "2024", "--config", "max_width=100,use_small_heuristics=Max"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot run rustfmt: {e}; `rustup component add rustfmt`"))?;
    let mut stdin = child.stdin.take().ok_or("rustfmt has no input")?;
    let owned = text.to_owned();
    // From a thread of its own: both pipes are smaller than the text.
    let feeder = std::thread::spawn(move || stdin.write_all(owned.as_bytes()));
    let output = child.wait_with_output().map_err(|e| format!("rustfmt: {e}"))?;
    feeder.join().map_err(|_| "rustfmt's feeder died")?.map_err(|e| format!("rustfmt: {e}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("rustfmt refused generated text: {}", said.trim()));
    }
    String::from_utf8(output.stdout).map_err(|_| "rustfmt gave no text".to_owned())
}

/// Lower-case hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: &str = r#"{
      "meta": {"source": "a test", "api_version": "0"},
      "enums": {"toy_state": ["on", "half-off"]},
      "errors": {"TOY_BROKEN": ["toy"]},
      "errors_without_declared_params": ["TOY_LOST"],
      "classes": {"gone": {"state": "removed", "lifecycle": [], "fields": {}, "messages": {}},
        "toy": {"state": "prototyped", "lifecycle": [["prototyped", "26.1.0"]], "messages": {},
          "fields": {"uuid": {"type": "string", "qualifier": "RO/runtime", "lifecycle": []}}},
        "console": {"state": "published", "lifecycle": [["published", "rio"]],
        "fields": {
          "type": {"type": "enum toy_state", "qualifier": "RW", "lifecycle": [["published", "rio"]]},
          "toy": {"type": "toy ref", "qualifier": "RW", "lifecycle": [["published", "rio"]]},
          "VM": {"type": "VM ref", "qualifier": "RO/constructor", "lifecycle": [["published", "boston"]]}},
        "messages": {
          "get_all_records": {"implicit": true, "result": "(console ref -> console record) map",
            "params": [{"name": "session_id", "type": "session ref"}], "roles": ["read-only"],
            "lifecycle": [["published", "rio"]]},
          "get_toy": {"implicit": true, "result": "toy ref", "lifecycle": [["published", "rio"]],
            "params": [{"name": "session_id", "type": "session ref"},
              {"name": "self", "type": "console ref"}]},
          "wind": {"async": true, "result": "void", "errors": ["TOY_BROKEN"], "roles": ["pool-admin"],
            "params": [{"name": "session_id", "type": "session ref"},
              {"name": "self", "type": "console ref"},
              {"name": "turns", "type": "int", "default": "0", "release": "21.4.0"}],
            "lifecycle": [["published", "dundee"]]}}}}
    }"#;

    fn tiny() -> Model {
        let mut model: Model = serde_json::from_str(TINY).unwrap();
        model.prune();
        model
    }

    #[test]
    fn a_class_becomes_a_module() {
        let model = tiny();
        let files = render::all(&model).unwrap();
        let console = &files["console.rs"];
        for piece in [
            "pub struct Console",
            "pub r#type: ToyState",
            "pub vm: Ref<crate::vm::Vm>",
            "pub fn wind(console: &Ref<Console>) -> Call<()>",
            "pub fn wind_with(console: &Ref<Console>, turns: i64) -> Call<()>",
            "pub fn async_wind(console: &Ref<Console>) -> AsyncCall<()>",
            "pub fn get_all_records() -> Call<BTreeMap<Ref<Console>, Console>>",
            "7.0",
            "TOY_BROKEN",
        ] {
            assert!(console.contains(piece), "no {piece:?} in\n{console}");
        }
        assert!(files["enums.rs"].contains("HalfOff = \"half-off\""));
        assert!(files["codes.rs"].contains("TOY_LOST"));
    }

    #[test]
    fn what_only_the_feature_adds_is_apart() {
        let model = tiny();
        let files = render::all(&model).unwrap();
        let (always, full) = files["console.rs"].split_once("mod full {").unwrap();
        assert!(full.contains("pub fn get_toy(") && full.contains("use super::Console;"), "{full}");
        assert!(!always.contains("fn get_toy("));
        assert!(files["mod.rs"].contains("#[cfg(feature = \"full\")]\npub mod toy;"));
        assert!(
            files["classes.rs"].contains("pub use crate::toy::Toy;"),
            "{}",
            files["classes.rs"]
        );
        assert!(!files.contains_key("gone.rs"));
    }

    #[test]
    fn the_committed_text_is_what_the_generator_writes() {
        run(&Args { check: true, model: None, cloudstack_model: None }).unwrap();
    }

    #[test]
    fn the_facts_are_the_facts_again() {
        let model = tiny();
        let facts = model.compact().unwrap();
        let again: Model = serde_json::from_str(&facts).unwrap();
        assert_eq!(again.compact().unwrap(), facts);
        assert_eq!(render::all(&again).unwrap(), render::all(&model).unwrap());
    }

    #[test]
    fn a_check_names_what_differs() {
        let folder = std::env::temp_dir().join(format!("codegen-test-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let files = BTreeMap::from([("a.rs".to_owned(), "text".to_owned())]);
        assert!(check(&folder, &files).unwrap_err().contains("a.rs"));
        write(&folder, &files).unwrap();
        check(&folder, &files).unwrap();
        fs::write(folder.join("stray.rs"), "x").unwrap();
        assert!(check(&folder, &files).unwrap_err().contains("stray.rs"));
        fs::remove_dir_all(&folder).unwrap();
    }
}

//! `upload_image` and `list_images` as programs: what they print, and how they fail.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use simulator::openstack::{OpenStack, OpenStackConfig};

/// A built example, beside the folder of this test's own binary.
fn program(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "build it first: cargo build -p examples --examples");
    path
}

async fn run(name: &str, variables: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = Command::new(program(name));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OS_")) {
        command.env_remove(name);
    }
    // No clouds.yaml of whoever runs this.
    command.env("HOME", "/nonexistent").env_remove("XDG_CONFIG_HOME");
    command.envs(variables.iter().copied()).args(args);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

const PASSWORD: &str = "hunter2hunter2";

async fn cloud() -> (OpenStack, Vec<(&'static str, String)>) {
    let cloud = OpenStack::start(OpenStackConfig::new().with_password(PASSWORD)).await.unwrap();
    let variables = vec![
        ("OS_AUTH_URL", cloud.auth_url()),
        ("OS_USERNAME", cloud.config().username().to_owned()),
        ("OS_PASSWORD", PASSWORD.to_owned()),
        ("OS_PROJECT_NAME", cloud.config().project().to_owned()),
        ("OS_USER_DOMAIN_NAME", "Default".to_owned()),
        ("OS_PROJECT_DOMAIN_NAME", "Default".to_owned()),
    ];
    (cloud, variables)
}

fn borrowed<'a>(variables: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    variables.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

/// A raw disk without a partition table, and the digest of it by `sha512sum`.
fn disk(folder: &Path, name: &str) -> (String, String) {
    let path = folder.join(name);
    let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n * 7 % 251) as u8 | 1).collect();
    std::fs::write(&path, data).unwrap();
    let sum = Command::new("sha512sum").arg(&path).output().unwrap();
    (path.to_str().unwrap().to_owned(), text(&sum.stdout)[..128].to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_uploaded_is_compared_and_listed() {
    let (cloud, variables) = cloud().await;
    let variables = borrowed(&variables);
    let folder = tempfile::tempdir().unwrap();
    let (path, sha512) = disk(folder.path(), "web01.img");
    let args = [
        &path,
        "--json",
        "--property",
        "os_type=linux",
        "--property",
        "note=a=b",
        "--tag",
        "clone",
        "--min-disk",
        "3",
        "--min-ram",
        "512",
        "--protected",
    ];
    // A connection that breaks once is no failure.
    cloud.faults().set_str("upload-close=1000000@1").unwrap();
    let output = run("upload_image", &variables, &args).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((said["size"].as_u64(), said["attempts"].as_u64()), (Some(3_000_000), Some(2)));
    assert_eq!(
        (said["sha512"].as_str(), said["compared"].as_str()),
        (Some(sha512.as_str()), Some("sha512"))
    );
    let held = cloud.images();
    assert_eq!(
        (held[0]["name"].as_str(), held[0]["status"].as_str()),
        (Some("web01"), Some("active"))
    );
    assert_eq!(
        (held[0]["note"].as_str(), held[0]["protected"].as_bool()),
        (Some("a=b"), Some(true))
    );

    let plain = run("upload_image", &variables, &[&path, "--name", "other\u{1b}[31m"]).await;
    assert!(plain.status.success(), "{}", text(&plain.stderr));
    assert!(text(&plain.stdout).contains("3000000 bytes, compared by sha512"), "{plain:?}");
    assert!(!text(&plain.stdout).contains('\u{1b}'));

    for (args, names) in [
        (&["--json"][..], &["other\u{1b}[31m", "web01"][..]),
        (&["--json", "--name", "web01"], &["web01"]),
        (&["--json", "--tag", "clone"], &["web01"]),
        (&["--json", "--property", "os_type=linux"], &["web01"]),
        (&["--json", "--status", "queued"], &[]),
        (&["--json", "--visibility", "public"], &[]),
        (&["--json", "--hidden"], &[]),
    ] {
        let output = run("list_images", &variables, args).await;
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        let list: Value = serde_json::from_slice(&output.stdout).unwrap();
        let found: Vec<_> =
            list.as_array().unwrap().iter().map(|i| i["name"].as_str().unwrap()).collect();
        assert_eq!(found, names, "{args:?}");
    }
    let table = text(&run("list_images", &variables, &[]).await.stdout);
    assert!(table.starts_with("NAME") && table.contains("web01") && table.contains("active"));
    assert!(!table.contains('\u{1b}') && table.contains(said["id"].as_str().unwrap()), "{table}");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_cloud_they_simulate_one_and_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = disk(folder.path(), "web01.raw");
    let output = run("upload_image", &[], &[&path]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("simulated"));
    let output = run("list_images", &[], &["--json"]).await;
    assert_eq!((output.status.success(), text(&output.stdout).trim()), (true, "[]"));
    assert!(text(&output.stderr).contains("simulated"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_one_line_and_leaves_nothing() {
    let (cloud, variables) = cloud().await;
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = disk(folder.path(), "web01.raw");
    let (qcow2, _) = disk(folder.path(), "web01.qcow2");
    let gone = folder.path().join("gone");
    let gone = gone.to_str().unwrap();
    let quick = ["--attempts", "1"];
    for (fault, file, args, words) in [
        ("", gone, &quick[..], "cannot be sent"),
        ("", &qcow2, &quick, "in no image format"),
        ("", &path, &["--disk-format", "tgz"], "takes no disk format \"tgz\""),
        ("size-cap=1000000", &path, &quick, "size limit"),
        ("hash-mismatch", &path, &quick, "sha512 differs"),
        ("upload-fails=503:1000000", &path, &quick, "503"),
        ("no-image-endpoint", &path, &quick, "no service of type"),
    ] {
        if !fault.is_empty() {
            cloud.faults().set_str(fault).unwrap();
        }
        let args = [&[file], args].concat();
        let output = run("upload_image", &borrowed(&variables), &args).await;
        cloud.faults().clear();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{fault}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(words), "{words}: {said}");
        assert!(output.stdout.is_empty() && !said.contains("hunter2"));
        assert!(cloud.images().is_empty(), "{fault} left an image");
    }
    let wrong: Vec<_> = borrowed(&variables)
        .into_iter()
        .map(|(name, value)| (name, if name == "OS_PASSWORD" { "hunter2wrong" } else { value }))
        .collect();
    for program in ["upload_image", "list_images"] {
        let args = if program == "upload_image" { vec![path.as_str()] } else { vec![] };
        let said = text(&run(program, &wrong, &args).await.stderr);
        assert!(said.starts_with(program) && said.lines().count() == 1, "{said}");
        assert!(said.contains("401") || said.contains("refused"), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
        let unknown = [&["--os-cloud", "nowhere"][..], &args].concat();
        let said = text(&run(program, &[], &unknown).await.stderr);
        assert!(said.contains("nowhere") && said.lines().count() == 1, "{said}");
    }
    cloud.stop().await;
}

//! What an upload to Glance costs: CPU and memory of a process that sends a file and computes MD5 and SHA-512 on
//! the way, beside `curl -T`, `sha512sum` and `md5sum` of the same file.
//!
//! The other end takes everything and looks at nothing: a thread of this program, which is not counted. Whatever
//! is measured is a process of its own; ours is this program again. `cargo bench -p benches --bench upload`; with
//! `-- --test` once, with little.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot be prepared must stop")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use benches::{Random, folder};
use glance_client::keystone::{Domain, Principal, Scope, Session};
use glance_client::{CloudConfig, Glance, Upload};

const ID: &str = "9b4b0a5c-6d41-4f3b-9d6f-0b1e5a6a2c11";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--send", url, file] => send(url, file),
        args => compare(args.contains(&"--test")),
    }
}

fn compare(test: bool) {
    if let Some(missing) = ["curl", "sha512sum", "md5sum"].into_iter().find(|name| !exists(name)) {
        println!("skipped: {missing} is not installed");
        return;
    }
    let (size, rounds) = if test { (16 << 20, 1) } else { (1 << 30, 5) };
    let folder = folder();
    let file = folder.path().join("disk");
    fill(&file, size);
    let url = sink();
    let put = format!("{url}/v2/images/{ID}/file");
    let path = file.to_str().unwrap();
    let this = std::env::current_exe().unwrap();
    let this = this.to_str().unwrap();
    let curl = ["curl", "-sSf", "-H", "Content-Type: application/octet-stream", "-T", path, &put];
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut memory = Vec::new();
    for round in 0..rounds {
        let (mine, said) = run(&[this, "--send", &url, path]);
        let parts = [run(&curl).0, run(&["sha512sum", path]).0, run(&["md5sum", path]).0];
        let sum = parts.iter().sum::<f64>();
        let kib: Vec<u64> = said.split_whitespace().map(|word| word.parse().unwrap()).collect();
        let over = kib[1].saturating_sub(kib[0]);
        println!(
            "round {round}: ours {mine:.2} s CPU; curl {:.2} + sha512sum {:.2} + md5sum {:.2} = {sum:.2} s; memory over idle \
             {:.1} MiB (idle {:.1} MiB)",
            parts[0],
            parts[1],
            parts[2],
            over as f64 / 1024.0,
            kib[0] as f64 / 1024.0,
        );
        ours.push(mine);
        theirs.push(sum);
        memory.push(over);
    }
    let least = |all: &[f64]| all.iter().copied().fold(f64::INFINITY, f64::min);
    let peak = memory.into_iter().max().unwrap();
    println!(
        "{} MiB: CPU ratio of the least rounds {:.2} (limit 1.10), memory over idle at most {:.1} MiB (limit 32)",
        size >> 20,
        least(&ours) / least(&theirs),
        peak as f64 / 1024.0,
    );
    assert!(peak <= 32 << 10, "the memory over idle is {peak} KiB");
    // With little, the start of a process is all that there is.
    assert!(test || least(&ours) <= 1.1 * least(&theirs), "the upload costs too much CPU");
}

fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

fn fill(path: &Path, size: usize) {
    let (mut file, mut random) = (File::create(path).unwrap(), Random::new(7));
    let mut piece = vec![0; 1 << 20];
    for _ in 0..size >> 20 {
        random.fill(&mut piece);
        file.write_all(&piece).unwrap();
    }
}

/// The CPU seconds of a process and its threads, and what it printed.
fn run(command: &[&str]) -> (f64, String) {
    let (before, began) = (cpu_of_children(), Instant::now());
    let output = Command::new(command[0])
        .args(&command[1..])
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", command[0]));
    assert!(output.status.success(), "{} failed after {:?}", command[0], began.elapsed());
    (cpu_of_children() - before, String::from_utf8_lossy(&output.stdout).into_owned())
}

/// User and system time of all children that were waited for, in hundredths of a second as Linux counts it.
fn cpu_of_children() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    fields.skip(13).take(2).map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
}

/// What is measured: a session, then one upload. Prints the resident memory before it and the peak after it, in KiB.
fn send(url: &str, file: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let named = Principal::named("demo", Domain::default());
        let config = CloudConfig::builder(format!("{url}/v3"))
            .with_password(named.clone(), "secret")
            .with_scope(Scope::Project(named))
            .build()
            .unwrap();
        let glance = Glance::connect(&Session::connect(&config).await.unwrap()).await.unwrap();
        let idle = memory("VmRSS:");
        let upload = Upload::from_file(file).unwrap().with_digests();
        let sent = glance.upload(ID, upload).await.unwrap();
        assert!(sent.digests.md5.is_some() && sent.digests.sha512.is_some());
        println!("{idle} {}", memory("VmHWM:"));
    });
}

fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A cloud that has one image, takes any data for it and drops it; gives its URL.
fn sink() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let own = url.clone();
    std::thread::spawn(move || {
        for tcp in listener.incoming() {
            let url = own.clone();
            std::thread::spawn(move || while serve(tcp.as_ref().unwrap(), &url).is_some() {});
        }
    });
    url
}

/// One request; `None` at the end of the connection.
fn serve(tcp: &TcpStream, url: &str) -> Option<()> {
    tcp.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
    let mut reader = BufReader::with_capacity(256 << 10, tcp);
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|len| *len > 0)?;
    let mut len = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end().to_ascii_lowercase();
        match line.split_once(": ") {
            Some(("content-length", value)) => len = value.parse().ok()?,
            Some(("expect", _)) => (&*tcp).write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?,
            None => break,
            Some(_) => {}
        }
    }
    std::io::copy(&mut reader.take(len), &mut std::io::sink()).ok()?;
    let (status, body) = answer(&first, url);
    let head = format!(
        "HTTP/1.1 {status}\r\nX-Subject-Token: token\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    (&*tcp).write_all((head + &body).as_bytes()).ok()
}

fn answer(first: &str, url: &str) -> (&'static str, String) {
    let endpoint = format!(
        r#"{{"id":"e","interface":"public","region":"one","region_id":"one","url":"{url}"}}"#
    );
    match first.split(' ').take(2).collect::<Vec<_>>().as_slice() {
        ["POST", _] => (
            "201 Created",
            format!(
                r#"{{"token":{{"user":{{"id":"u","name":"demo"}},"project":{{"id":"p","name":"demo"}},"roles":[],
                "issued_at":"2031-01-01T00:00:00.000000Z","expires_at":"2031-01-01T12:00:00.000000Z",
                "catalog":[{{"type":"image","name":"glance","id":"s","endpoints":[{endpoint}]}}]}}}}"#
            ),
        ),
        ["PUT", _] => ("204 No Content", String::new()),
        ["GET", "/"] => (
            "300 Multiple Choices",
            r#"{"versions":[{"id":"v2.17","status":"CURRENT","links":[]}]}"#.to_owned(),
        ),
        _ => (
            "200 OK",
            format!(
                r#"{{"id":"{ID}","status":"queued","disk_format":"raw","container_format":"bare"}}"#
            ),
        ),
    }
}

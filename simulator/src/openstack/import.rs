//! `POST /v2/images/{id}/import` and `/locations`: data that the service takes or fetches by itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde_json::Value;
use tokio::net::TcpStream;

use super::glance::{Caller, find};
use super::http::{Outcome, Reply, Req, glance_error};
use super::image::{Image, Status};
use super::sink::{Sink, Stored};
use super::state::Shared;
use super::store::{DEFAULT, METHODS, WEB, imports, writable};
use super::task::{self, Task};
use super::upload::{record, room};
use super::{Fault, inspect};

/// A refusal: status and sentence.
type Refused = (u16, String);

/// What a task says of most failures.
const INTERNAL: &str = "Task failed due to Internal Error";

enum Source {
    Staged,
    Web(Uri),
    Copy,
    Glance { region: String, image: String },
}

/// One import on its way.
struct Job {
    state: Arc<Shared>,
    image: String,
    region: usize,
    project: String,
    task: String,
    stores: Vec<String>,
    all_must_succeed: bool,
}

/// Starts an import.
pub(super) async fn import(
    state: &Arc<Shared>,
    req: &mut Req,
    caller: &Caller,
    id: &str,
) -> Outcome {
    let body = req.json().await?.unwrap_or_default();
    let begun = begin(state, req, caller, id, &body);
    Ok(match begun {
        Err(refusal) => *refusal,
        Ok(None) => Reply::empty(202),
        Ok(Some((job, source))) => {
            tokio::spawn(job.run(source));
            Reply::empty(202)
        }
    })
}

fn begin(
    state: &Arc<Shared>,
    req: &Req,
    caller: &Caller,
    id: &str,
    body: &Value,
) -> Result<Option<(Job, Source)>, Box<Reply>> {
    let refuse = |(status, said): Refused| Box::new(glance_error(req, status, &said, ""));
    let name = body["method"]["name"].as_str().unwrap_or_default();
    if !imports(state) || !METHODS.contains(&name) {
        let said = format!("Unknown import method name '{name}'.");
        return Err(refuse((400, said)));
    }
    if room(state, caller) == 0 {
        return Err(refuse((413, "The project is over its limit of image_size_total.".to_owned())));
    }
    let mut tables = state.tables();
    let image = find(&mut tables, req, caller, id)?;
    check_status(image, name).map_err(refuse)?;
    check_right(image, caller, name).map_err(refuse)?;
    if image.lock.is_some() {
        let said = format!(
            "New operation on image '{id}' is not permitted as prior operation is \
                            still in progress"
        );
        return Err(refuse((409, said)));
    }
    let stores = stores(image, name, body).map_err(refuse)?;
    let source = source(state, name, body).map_err(refuse)?;
    if stores.is_empty() {
        // It is everywhere already.
        return Ok(None);
    }
    let task = Task::new(task::IMPORT, id, caller, req, body.clone());
    image.lock = Some(task.id.clone());
    let job = Job {
        state: Arc::clone(state),
        image: id.to_owned(),
        region: req.region,
        project: caller.project.clone(),
        task: task.id.clone(),
        stores,
        all_must_succeed: body["all_stores_must_succeed"] != false,
    };
    tables.tasks.push(task);
    Ok(Some((job, source)))
}

fn check_status(image: &Image, method: &str) -> Result<(), Refused> {
    let conflict = |said: &str| Err((409, said.to_owned()));
    match (method, image.status) {
        ("copy-image", Status::Active) => {}
        ("copy-image", _) => {
            return conflict("Only images with status active can be targeted for copying");
        }
        (_, Status::Active) => {
            return conflict("Image with status active cannot be target for import");
        }
        ("glance-direct", Status::Uploading) => {}
        ("glance-direct", _) => {
            return conflict("Image needs to be staged before 'glance-direct' method can be used");
        }
        (_, Status::Queued) => {}
        (method, _) => {
            let said = format!("Image needs to be in 'queued' state to use '{method}' method");
            return Err((409, said));
        }
    }
    for (name, value) in
        [("container_format", &image.container_format), ("disk_format", &image.disk_format)]
    {
        if value.is_none() {
            return Err((409, format!("'{name}' needs to be set before import")));
        }
    }
    Ok(())
}

fn check_right(image: &Image, caller: &Caller, method: &str) -> Result<(), Refused> {
    let action = match method {
        _ if caller.admin => return Ok(()),
        "copy-image" => "copy_image",
        _ if image.owner == caller.project => return Ok(()),
        _ => "modify_image",
    };
    Err((403, format!("You are not authorized to complete {action} action.")))
}

/// The stores to import into.
fn stores(image: &Image, method: &str, body: &Value) -> Result<Vec<String>, Refused> {
    let copies = method == "copy-image";
    if body["all_stores"] == true {
        let fresh = |store: &&str| !(copies && image.stores.iter().any(|known| known == store));
        return Ok(writable().into_iter().filter(fresh).map(str::to_owned).collect());
    }
    let named = body["stores"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut stores: Vec<String> = named.map(str::to_owned).collect();
    if stores.is_empty() {
        stores.push(DEFAULT.to_owned());
    }
    for store in &stores {
        if !writable().contains(&store.as_str()) {
            return Err((409, format!("Unknown scheme '{store}' found in URI")));
        }
        if copies && image.stores.contains(store) {
            return Err((400, format!("Image is already present at store '{store}'")));
        }
    }
    Ok(stores)
}

fn source(state: &Shared, method: &str, body: &Value) -> Result<Source, Refused> {
    let word = |key: &str| body["method"][key].as_str();
    match method {
        "glance-direct" => Ok(Source::Staged),
        "copy-image" => Ok(Source::Copy),
        "web-download" => {
            let text = word("uri")
                .ok_or_else(|| (400, "URI is required when using 'web-download'".to_owned()))?;
            let said = || (400, format!("URI for web-download does not pass filtering: {text}"));
            allowed(state, text).map(Source::Web).ok_or_else(said)
        }
        _ => {
            let needs = |key: &str| {
                word(key).ok_or_else(|| {
                    let said = format!("'{key}' needs to be set for glance-download import method");
                    (400, said)
                })
            };
            let (region, image) = (needs("glance_region")?, needs("glance_image_id")?);
            if uuid::Uuid::try_parse(image).is_err() {
                let said = format!("Remote image id does not look like a UUID: {image}");
                return Err((400, said));
            }
            Ok(Source::Glance { region: region.to_owned(), image: image.to_owned() })
        }
    }
}

/// A URL that passes the operator's filter: of this machine's addresses only the usual two.
fn allowed(state: &Shared, text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let host = uri.host()?;
    let known = matches!(host, "127.0.0.1" | "localhost");
    let local =
        known || host.starts_with("127.") || host.starts_with("169.254.") || host == "[::1]";
    let refused = local && (!known || state.faults.on(&Fault::RefuseLoopback));
    (matches!(uri.scheme_str(), Some("http" | "https")) && !refused).then_some(uri)
}

impl Job {
    async fn run(self, source: Source) {
        task::note(&self.state, &self.task, "processing", "");
        if self.state.faults.strikes(&Fault::StuckImport) {
            self.note_stores(&source);
            return;
        }
        if let Some(delay) = self.state.faults.take(|fault| match fault {
            Fault::SlowImport(delay) => Some(*delay),
            _ => None,
        }) {
            self.note_stores(&source);
            tokio::time::sleep(delay).await;
        }
        self.note_stores(&source);
        let fetched = self.fetch(&source).await;
        let message = match fetched {
            Ok((path, stored)) => self.spread(&source, path, &stored),
            Err(()) => {
                self.give_up(&source);
                Err(INTERNAL.to_owned())
            }
        };
        self.with_image(|image| image.lock = None);
        match message {
            Ok(message) => task::note(&self.state, &self.task, "success", &message),
            Err(message) => task::note(&self.state, &self.task, "failure", &message),
        }
    }

    fn with_image<T>(&self, change: impl FnOnce(&mut Image) -> T) -> Option<T> {
        let mut tables = self.state.tables();
        let own = |image: &&mut Image| image.id == self.image && image.region == self.region;
        let image = tables.images.iter_mut().find(own)?;
        image.updated = Timestamp::now();
        Some(change(image))
    }

    fn note_stores(&self, source: &Source) {
        self.with_image(|image| {
            image.importing = Some(self.stores.clone());
            image.failed = Some(Vec::new());
            if matches!(source, Source::Staged) {
                image.status = Status::Importing;
            }
        });
    }

    /// Brings the data to a file of their own; what it was is known by then.
    async fn fetch(&self, source: &Source) -> Result<(PathBuf, Stored), ()> {
        let path = self.state.dir.join(format!("{}-{}", self.region, self.image));
        if self.state.faults.strikes(&Fault::ImportFails) {
            return Err(());
        }
        let from = match source {
            Source::Web(uri) => return Ok((path.clone(), download(&self.state, uri, path).await?)),
            Source::Staged => self.with_image(|image| image.staged.clone()).flatten(),
            Source::Copy => self.with_image(|image| image.file.clone()).flatten(),
            Source::Glance { region, image } => self.remote(region, image),
        };
        let from = from.ok_or(())?;
        let sink = Sink::start(path.with_extension("new"), self.sha256());
        let mut file = tokio::fs::File::open(from).await.map_err(drop)?;
        loop {
            let mut block = vec![0; 1 << 18];
            let count = tokio::io::AsyncReadExt::read(&mut file, &mut block).await.map_err(drop)?;
            block.truncate(count);
            if count == 0 || !sink.write(Bytes::from(block)).await {
                break;
            }
        }
        let stored = sink.finish().await.map_err(drop)?;
        std::fs::rename(path.with_extension("new"), &path).map_err(drop)?;
        Ok((path, stored))
    }

    fn sha256(&self) -> bool {
        self.state.faults.on(&Fault::Sha256Multihash)
    }

    /// The data of another region's image, as far as the project may see it.
    fn remote(&self, region: &str, id: &str) -> Option<PathBuf> {
        let two = self.state.faults.on(&Fault::TwoRegions);
        let regions = [self.state.config.region.as_str(), super::catalog::SECOND_REGION];
        let region =
            regions.iter().take(1 + usize::from(two)).position(|known| *known == region)?;
        let tables = self.state.tables();
        let image = tables.images.iter().find(|image| image.id == id && image.region == region)?;
        let open = matches!(image.visibility.as_str(), "public" | "community");
        (open || image.owner == self.project).then(|| image.file.clone()).flatten()
    }

    /// What a download that failed leaves: the lists of stores differ by method, as on a real server.
    fn give_up(&self, source: &Source) {
        self.with_image(|image| match source {
            Source::Web(_) => {
                image.status = Status::Queued;
                image.importing = Some(Vec::new());
                image.failed = Some(self.stores.clone());
            }
            Source::Copy => {
                image.importing = Some(Vec::new());
                image.failed = Some(self.stores.clone());
            }
            // The store stays in the list of those that are being imported to.
            Source::Glance { .. } => image.status = Status::Queued,
            // And the image stays where it was.
            Source::Staged => {
                image.importing = Some(Vec::new());
                image.failed = Some(self.stores.clone());
            }
        });
    }

    /// Puts the data into one store after the other.
    fn spread(&self, source: &Source, path: PathBuf, stored: &Stored) -> Result<String, String> {
        let bad = self.state.faults.take(|fault| match fault {
            Fault::StoreFails(store) => Some(store.clone()),
            _ => None,
        });
        let copies = matches!(source, Source::Copy);
        let done = self.with_image(|image| {
            let (mut done, mut failed) = (Vec::new(), Vec::new());
            for store in &self.stores {
                let mut fits = bad.as_deref() != Some(store);
                if fits && !copies {
                    match record(&self.state, image, stored, store) {
                        Ok(inspect::Passed { virtual_size }) => image.virtual_size = virtual_size,
                        Err(_) => fits = false,
                    }
                }
                if fits { done.push(store.clone()) } else { failed.push(store.clone()) }
            }
            let undone = done.is_empty() || (self.all_must_succeed && !failed.is_empty());
            image.importing = Some(Vec::new());
            image.failed = Some(if undone { self.stores.clone() } else { failed });
            if undone {
                if !copies {
                    // For ever: nothing sets it back.
                    image.status = Status::Importing;
                    image.stores.clear();
                }
                return false;
            }
            if copies {
                image.stores.extend(done);
            } else {
                image.stores = done;
                image.size = Some(stored.size);
                image.status = Status::Active;
                if let Some(staged) = image.staged.take() {
                    let _ = std::fs::remove_file(staged);
                }
            }
            image.file = Some(path);
            true
        });
        match done {
            Some(true) => Ok(format!("Copied {} MiB", stored.size >> 20)),
            _ => Err(INTERNAL.to_owned()),
        }
    }
}

/// Downloads by http, on a connection of its own.
async fn download(state: &Shared, uri: &Uri, path: PathBuf) -> Result<Stored, ()> {
    if uri.scheme_str() != Some("http") {
        return Err(());
    }
    let host = uri.host().ok_or(())?;
    let port = uri.port_u16().unwrap_or(80);
    let limit = Duration::from_secs(30);
    let stream = tokio::time::timeout(limit, TcpStream::connect((host, port))).await;
    let stream = stream.map_err(drop)?.map_err(drop)?;
    let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(drop)?;
    tokio::spawn(connection);
    let request = Request::builder()
        .uri(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header("host", uri.authority().map_or(host, |authority| authority.as_str()))
        .header("user-agent", "Python-urllib (simulated)")
        .body(Empty::<Bytes>::new())
        .map_err(drop)?;
    let answer = send.send_request(request).await.map_err(drop)?;
    if answer.status() != 200 {
        return Err(());
    }
    let announced = answer.headers().get("content-length").and_then(|n| n.to_str().ok());
    let announced: Option<u64> = announced.and_then(|text| text.parse().ok());
    let sink = Sink::start(path, state.faults.on(&Fault::Sha256Multihash));
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        let Ok(block) = frame.map_err(drop)?.into_data() else { continue };
        if !sink.write(block).await {
            break;
        }
    }
    let stored = sink.finish().await.map_err(drop)?;
    if announced.is_some_and(|size| size != stored.size) { Err(()) } else { Ok(stored) }
}

/// `POST /v2/images/{id}/locations`. A stand-in for data that stay elsewhere: they are fetched at once, and read from here.
pub(super) async fn locate(
    state: &Arc<Shared>,
    req: &mut Req,
    caller: &Caller,
    id: &str,
) -> Outcome {
    let body = req.json().await?.unwrap_or_default();
    let begun = begin_location(state, req, caller, id, &body);
    Ok(match begun {
        Err(refusal) => *refusal,
        Ok((job, uri)) => {
            let wanted = body["validation_data"]["os_hash_value"].as_str().map(str::to_owned);
            tokio::spawn(job.locate(uri, wanted));
            Reply::empty(202)
        }
    })
}

fn begin_location(
    state: &Arc<Shared>,
    req: &Req,
    caller: &Caller,
    id: &str,
    body: &Value,
) -> Result<(Job, Uri), Box<Reply>> {
    let refuse = |status, said: &str| Box::new(glance_error(req, status, said, ""));
    let Some(url) = body["url"].as_str() else {
        return Err(refuse(
            400,
            "Provided object does not match schema 'location': 'url' is needed",
        ));
    };
    let mut tables = state.tables();
    let image = find(&mut tables, req, caller, id)?;
    if image.status != Status::Queued {
        let status = image.status.as_str();
        let said = format!("It's not allowed to add locations if image status is {status}.");
        return Err(refuse(409, &said));
    }
    if !caller.admin && image.owner != caller.project {
        return Err(refuse(403, "You are not authorized to complete add_image_location action."));
    }
    if !url.starts_with("http") || state.faults.on(&Fault::OneStore) {
        let said = "http store must be enabled to use location API by normal user.";
        return Err(refuse(403, said));
    }
    let Some(uri) = allowed(state, url) else {
        let said = format!("URI for add location does not pass filtering: {url}");
        return Err(refuse(400, &said));
    };
    if image.lock.is_some() {
        let said =
            "New operation on image is not permitted as prior operation is still in progress";
        return Err(refuse(409, said));
    }
    let task = Task::new(task::LOCATION, id, caller, req, body.clone());
    image.lock = Some(task.id.clone());
    let job = Job {
        state: Arc::clone(state),
        image: id.to_owned(),
        region: req.region,
        project: caller.project.clone(),
        task: task.id.clone(),
        stores: vec![WEB.to_owned()],
        all_must_succeed: true,
    };
    tables.tasks.push(task);
    Ok((job, uri))
}

impl Job {
    async fn locate(self, uri: Uri, wanted: Option<String>) {
        task::note(&self.state, &self.task, "processing", "");
        let path = self.state.dir.join(format!("{}-{}", self.region, self.image));
        let fetched = download(&self.state, &uri, path.clone()).await;
        let good = fetched.ok().filter(|stored| {
            wanted.as_ref().is_none_or(|wanted| [&stored.md5, &stored.hash.1].contains(&wanted))
        });
        self.with_image(|image| {
            image.lock = None;
            let Some(stored) = &good else { return };
            image.checksum = Some(stored.md5.clone());
            image.hash = Some(stored.hash.clone());
            image.size = Some(stored.size);
            image.stores.clone_from(&self.stores);
            image.file = Some(path);
            image.status = Status::Active;
        });
        match good {
            Some(_) => task::note(&self.state, &self.task, "success", ""),
            None => task::note(&self.state, &self.task, "failure", INTERNAL),
        }
    }
}

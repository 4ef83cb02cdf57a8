//! Import: Glance fetches or takes the data by itself, into one or several stores.
//!
//! [`import`] starts it and is answered at once; [`Glance::import`](crate::Glance::import) also waits for the end and says
//! what came of each store.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::call::{get, on_image};
use super::record::{Image, ImageStatus};
use crate::call::Call;
use crate::error::{Error, ErrorKind, Result};
use crate::info::ImportMethod;
use crate::keystone::ServiceClient;
use crate::poll::{Limit, Pace, Seen, poll};
use crate::secret::Secret;
use crate::task::{self, Task, TaskStatus};

/// What is imported, and into which stores.
///
/// ```
/// use glance_client::image::{Import, import};
/// let call = import("9b4b", &Import::web("https://example.org/disk.qcow2").with_store("fast").with_store("slow"));
/// assert_eq!(call.path(), "images/9b4b/import");
/// let body: serde_json::Value = serde_json::from_slice(call.body()).unwrap();
/// assert_eq!(body["method"]["name"], "web-download");
/// assert_eq!(body["stores"], serde_json::json!(["fast", "slow"]));
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Import {
    source: Source,
    stores: Vec<String>,
    all_stores: bool,
    partial: bool,
}

#[derive(Clone, PartialEq, Eq)]
enum Source {
    Staged,
    Web(String),
    Copy,
    Glance { region: String, image: String, interface: Option<String> },
}

impl Import {
    fn of(source: Source) -> Self {
        Self { source, stores: Vec::new(), all_stores: false, partial: false }
    }

    /// What was [staged](crate::Glance::stage) (`glance-direct`).
    #[must_use]
    pub fn staged() -> Self {
        Self::of(Source::Staged)
    }

    /// What is at a URL (`web-download`). Clouds refuse addresses of their own hosts, and ports other than 80 and 443
    /// unless the operator allows them.
    pub fn web(url: impl Into<String>) -> Self {
        Self::of(Source::Web(url.into()))
    }

    /// What another store of the same image has (`copy-image`). The image is active and stays so. Most clouds let only
    /// administrators do it.
    #[must_use]
    pub fn copy() -> Self {
        Self::of(Source::Copy)
    }

    /// What an image of another region's Glance has (`glance-download`, 2023.1). That Glance is asked with our token, so
    /// both regions share their Keystone.
    pub fn from_glance(region: impl Into<String>, image: impl Into<String>) -> Self {
        Self::of(Source::Glance { region: region.into(), image: image.into(), interface: None })
    }

    /// The interface of the other Glance, of [`from_glance`](Self::from_glance): `public` unless it is given.
    #[must_use]
    pub fn with_interface(mut self, name: impl Into<String>) -> Self {
        if let Source::Glance { interface, .. } = &mut self.source {
            *interface = Some(name.into());
        }
        self
    }

    /// Into this store, too. Without any the default one.
    #[must_use]
    pub fn with_store(mut self, store: impl Into<String>) -> Self {
        self.stores.push(store.into());
        self
    }

    /// Into all stores that take data; those that have it already are left out of a [copy](Self::copy).
    #[must_use]
    pub fn with_all_stores(mut self) -> Self {
        self.all_stores = true;
        self
    }

    /// Whether a store may fail as long as another one has the data. Unless it is set, one that fails undoes all.
    #[must_use]
    pub fn with_partial_success(mut self, partial: bool) -> Self {
        self.partial = partial;
        self
    }

    /// The name of the method.
    #[must_use]
    pub fn method(&self) -> ImportMethod {
        match self.source {
            Source::Staged => ImportMethod::GlanceDirect,
            Source::Web(_) => ImportMethod::WebDownload,
            Source::Copy => ImportMethod::CopyImage,
            Source::Glance { .. } => ImportMethod::GlanceDownload,
        }
    }

    fn json(&self) -> Value {
        let mut method = json!({"name": self.method().as_str()});
        match &self.source {
            Source::Staged | Source::Copy => {}
            Source::Web(url) => method["uri"] = json!(url),
            Source::Glance { region, image, interface } => {
                method["glance_region"] = json!(region);
                method["glance_image_id"] = json!(image);
                if let Some(interface) = interface {
                    method["glance_service_interface"] = json!(interface);
                }
            }
        }
        let mut body = json!({"method": method});
        if self.all_stores {
            body["all_stores"] = json!(true);
        } else if !self.stores.is_empty() {
            body["stores"] = json!(self.stores);
        }
        if self.partial {
            body["all_stores_must_succeed"] = json!(false);
        }
        body
    }

    fn problem(&self) -> Option<&'static str> {
        (self.all_stores && !self.stores.is_empty())
            .then_some("an import goes into all stores or into those that are named, not both")
    }

    /// What must not be seen in an error.
    fn secrets(&self) -> Vec<Secret> {
        match &self.source {
            Source::Web(url) => Secret::in_url(url),
            _ => Vec::new(),
        }
    }

    /// An error without them.
    fn hidden(&self, error: Error) -> Error {
        self.secrets().iter().fold(error, Error::without)
    }
}

impl fmt::Debug for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Import")
            .field("method", &self.method().as_str())
            .field("stores", &self.stores)
            .field("all_stores", &self.all_stores)
            .field("partial", &self.partial)
            .finish_non_exhaustive()
    }
}

/// Starts an import: `POST /v2/images/{id}/import`, 202 (API 2.6; stores: 2.8). What comes of it is told by the image.
///
/// Errors: [`Conflict`](crate::ErrorKind::Conflict) if the image is not where the method wants it (staged, queued, active)
/// or the store is unknown, [`Invalid`](crate::ErrorKind::Invalid) for a method or URL that the cloud does not take,
/// [`Forbidden`](crate::ErrorKind::Forbidden) if the image is not ours, [`TooLarge`](crate::ErrorKind::TooLarge) over quota.
#[must_use]
pub fn import(id: &str, import: &Import) -> Call<()> {
    let verb = format!("import by {}", import.method());
    let call = on_image(&verb, id, "/import", Method::POST, |_| Ok(())).with_json(&import.json());
    let call = import.secrets().into_iter().fold(call, Call::with_secret);
    match import.problem() {
        Some(problem) => call.with_problem(problem),
        None => call,
    }
}

/// How to wait for an import.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ImportOptions {
    /// Gives up when nothing has changed for so long (30 minutes): neither the image, nor the list of stores, nor the
    /// number of bytes that the task tells (Glance tells none while it downloads).
    pub stall_timeout: Duration,
    /// How often to look, and what stops it; the import itself cannot be stopped, but by deleting the image.
    pub pace: Pace,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self { stall_timeout: Duration::from_secs(1800), pace: Pace::default() }
    }
}

impl ImportOptions {
    /// Gives up when nothing has changed for so long.
    #[must_use]
    pub fn with_stall_timeout(mut self, limit: Duration) -> Self {
        self.stall_timeout = limit;
        self
    }

    /// As [`Pace::with_pauses`].
    #[must_use]
    pub fn with_pauses(mut self, first: Duration, longest: Duration) -> Self {
        self.pace = self.pace.with_pauses(first, longest);
        self
    }

    /// As [`Pace::with_cancel`].
    #[must_use]
    pub fn with_cancel(mut self, cancel: Arc<AtomicBool>) -> Self {
        self.pace = self.pace.with_cancel(cancel);
        self
    }
}

/// What came of an import.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Imported {
    /// The image, which is active; its [`stores`](Image::stores) have the data.
    pub image: Image,
    /// The stores that failed, where that was [allowed](Import::with_partial_success).
    pub failed: Vec<String>,
    /// The task, where the server shows it (API 2.12).
    pub task: Option<Task>,
}

/// Starts an import and waits for its end.
pub(crate) async fn run(
    client: &ServiceClient,
    id: &str,
    what: &Import,
    options: &ImportOptions,
) -> Result<Imported> {
    // The tasks of earlier imports stay in the list for two days.
    let before: Vec<String> = tasks(client, id).await?.into_iter().map(|task| task.id).collect();
    client.call(import(id, what)).await?;
    let limit = options.stall_timeout;
    let late = |_: &str| {
        format!(
            "image {id}: the import by {} has not moved for {} s; delete the image and begin anew",
            what.method(),
            limit.as_secs_f32()
        )
    };
    let look = || look(client, id, &before);
    let name = format!("image {id}");
    let state = poll(&options.pace, Limit::WithoutChange(limit), &name, look, late).await?;
    conclude(id, what, state).map_err(|error| what.hidden(error))
}

/// The tasks of an image; none where the server does not show them.
async fn tasks(client: &ServiceClient, id: &str) -> Result<Vec<Task>> {
    match client.call(task::of_image(id)).await {
        Ok(tasks) => Ok(tasks),
        // Before API 2.12; some policies forbid it.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Forbidden) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

struct State {
    image: Image,
    task: Option<Task>,
}

async fn look(client: &ServiceClient, id: &str, before: &[String]) -> Result<Seen<State>> {
    // The task first: an image that is read after a task has ended shows its end.
    let task = tasks(client, id).await?.into_iter().find(|task| !before.contains(&task.id));
    let image = client.call(get(id)).await.map_err(|error| {
        if !error.is_not_found() {
            return error;
        }
        let text = format!("image {id}: it was deleted during its import");
        Error::new(ErrorKind::Failed, text).with_source(error)
    })?;
    let state = State { image, task };
    Ok(if state.is_over() { Seen::Done(state) } else { Seen::Pending(state.words()) })
}

impl State {
    fn is_over(&self) -> bool {
        // The lock is set before the import is answered and goes with its end. Servers before 2020.3 have none, but an
        // image in status `importing`.
        if self.image.import_task().is_some() {
            return false;
        }
        match self.task.as_ref().map(|task| &task.status) {
            // The list of stores may keep what never began, and the image stay `importing` for ever.
            Some(TaskStatus::Failure) => true,
            Some(status) if !status.is_final() => false,
            _ => {
                let busy = [ImageStatus::Importing, ImageStatus::Uploading];
                let failed = !self.image.failed_stores().is_empty();
                self.image.importing_to().is_empty()
                    && (failed || !busy.contains(&self.image.status))
            }
        }
    }

    /// What changes as long as the import moves.
    fn words(&self) -> String {
        let message = self.task.as_ref().and_then(|task| task.message.as_deref());
        let stores = self.image.importing_to().join(",");
        format!("{} {stores} {}", self.image.status, message.unwrap_or_default())
    }

    fn task_failed(&self) -> bool {
        self.task.as_ref().is_some_and(|task| task.status == TaskStatus::Failure)
    }
}

fn conclude(id: &str, what: &Import, state: State) -> Result<Imported> {
    let task_failed = state.task_failed();
    let State { image, task } = state;
    let failed: Vec<String> = image.failed_stores().into_iter().map(str::to_owned).collect();
    let good = image.status == ImageStatus::Active;
    if good && (failed.is_empty() || what.partial) && !(task_failed && failed.is_empty()) {
        return Ok(Imported { image, failed, task });
    }
    let stores = match failed.join(", ") {
        none if none.is_empty() => none,
        some => format!(" into {some}"),
    };
    let said = task.as_ref().and_then(|task| task.message.as_deref());
    let text = format!(
        "image {id}: the import by {}{stores} failed, the image is {}: {}; {}",
        what.method(),
        image.status,
        said.unwrap_or("the server does not say why"),
        if good { "try those stores again" } else { "delete the image and make a new one" }
    );
    Err(Error::new(ErrorKind::Failed, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, StatusCode};

    fn body(what: &Import) -> Value {
        serde_json::from_slice(import("1", what).body()).unwrap()
    }

    fn state(image: Value, task: Option<Value>) -> State {
        State {
            image: Image::from_json(image).unwrap(),
            task: task.map(|task| Task::from_json(task).unwrap()),
        }
    }

    #[test]
    fn every_method_has_its_own_words() {
        assert_eq!(body(&Import::staged()), json!({"method": {"name": "glance-direct"}}));
        assert_eq!(
            body(&Import::web("http://h/x").with_all_stores().with_partial_success(true)),
            json!({"method": {"name": "web-download", "uri": "http://h/x"}, "all_stores": true,
                "all_stores_must_succeed": false})
        );
        assert_eq!(
            body(&Import::copy().with_store("slow")),
            json!({"method": {"name": "copy-image"}, "stores": ["slow"]})
        );
        assert_eq!(
            body(&Import::from_glance("two", "2").with_interface("internal")),
            json!({"method": {"name": "glance-download", "glance_region": "two", "glance_image_id": "2",
                "glance_service_interface": "internal"}})
        );
        let both = import("1", &Import::copy().with_store("a").with_all_stores());
        assert!(both.url(&url::Url::parse("http://h/v2").unwrap()).is_err());
    }

    #[test]
    fn a_password_in_a_url_is_in_no_text() {
        for url in ["http://user:hunter2@h/x", "https://h/x?expires=1&sig=hunter2#y"] {
            let what = Import::web(url);
            let call = import("1", &what);
            let said = format!("<h1>400</h1> no: {}", url.replace('&', "&amp;"));
            let error = call
                .parse(StatusCode::BAD_REQUEST, &HeaderMap::new(), said.as_bytes())
                .unwrap_err();
            let failed = state(
                json!({"id": "1", "status": "queued"}),
                Some(json!({"id": "t", "status": "failure", "message": format!("no {url}")})),
            );
            let end = what.hidden(conclude("1", &what, failed).unwrap_err());
            let texts = format!("{what:?} {call:?} {error} {error:?} {end:?}");
            assert!(!texts.contains("hunter2"), "{texts}");
        }
    }

    #[test]
    fn an_import_is_over_when_its_lock_is_gone() {
        let image = |status: &str, more: Value| {
            let mut image = json!({"id": "1", "status": status});
            image.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            image
        };
        let task = |status: &str| Some(json!({"id": "t", "status": status}));
        let over = |image, task| state(image, task).is_over();
        assert!(!over(image("importing", json!({})), None));
        assert!(!over(image("active", json!({"os_glance_import_task": "t"})), None));
        assert!(!over(image("active", json!({"os_glance_importing_to_stores": "slow"})), None));
        assert!(!over(image("active", json!({})), task("processing")));
        assert!(over(
            image("active", json!({"os_glance_importing_to_stores": ""})),
            task("success")
        ));
        assert!(over(image("queued", json!({})), None));
        assert!(over(image("uploading", json!({})), task("failure")));
        assert!(!over(image("uploading", json!({})), task("success")));
        // As seen after a region that does not exist.
        let stale = || image("queued", json!({"os_glance_importing_to_stores": "fast"}));
        assert!(over(stale(), task("failure")));
        // As seen after data of another format, where the status never changes again.
        let stuck = || image("importing", json!({"os_glance_failed_import": "fast"}));
        assert!(over(stuck(), task("failure")) && over(stuck(), None));
        assert!(!over(stale(), None));
    }

    #[test]
    fn the_end_names_the_stores_and_the_reason() {
        let failed = json!({"id": "1", "status": "active", "os_glance_failed_import": "slow"});
        let task = || Some(json!({"id": "t", "status": "failure", "message": "no space"}));
        let error = conclude("1", &Import::copy(), state(failed.clone(), task())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Failed);
        assert_eq!(
            error.to_string(),
            "image 1: the import by copy-image into slow failed, the image is active: no space; try those stores again"
        );
        let partial = Import::copy().with_partial_success(true);
        assert_eq!(conclude("1", &partial, state(failed, task())).unwrap().failed, ["slow"]);
        let queued = json!({"id": "1", "status": "queued"});
        assert!(conclude("1", &Import::web("http://h/"), state(queued, None)).is_err());
        // A task that failed has failed, whatever the image still is.
        let active = json!({"id": "1", "status": "active"});
        assert!(conclude("1", &partial, state(active, task())).is_err());
    }
}

//! The client of the Image API.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use url::Url;

use crate::call::Call;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{
    self, Download, DownloadOptions, Image, ImageSchema, ImageStream, Import, ImportOptions,
    Imported, ListQuery, NewImage, StoreOptions, Stored, Upload, Uploaded, WaitOptions,
};
use crate::keystone::{
    ApiVersion, EndpointQuery, ServiceClient, Session, join_version, versions, without_version,
};
use crate::poll::Pace;
use crate::task::{self, Task};

/// Glance at one cloud. Clones share the session.
#[derive(Clone, Debug)]
pub struct Glance {
    service: ServiceClient,
    version: Option<(u32, u32)>,
    schema: Arc<tokio::sync::OnceCell<ImageSchema>>,
}

impl Glance {
    /// Finds the `image` service in the session's catalogue and the newest version 2 that it speaks.
    ///
    /// # Errors
    /// [`ErrorKind::Catalog`] if there is no such service; [`ErrorKind::Protocol`] if it has no version 2.
    pub async fn connect(session: &Session) -> Result<Self> {
        Self::connect_at(session, session.endpoint(&EndpointQuery::new("image"))?).await
    }

    /// The same at a URL that is already known. It gets the token: with `http` in the clear.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_at(session: &Session, url: Url) -> Result<Self> {
        let root = without_version(&url);
        let usual = ApiVersion::new(2, 0);
        let service = session.service_at(root.clone());
        let version = match service.call(versions()).await {
            Ok(found) => {
                let best = found
                    .iter()
                    .filter(|version| version.major == 2)
                    .max_by_key(|version| version.minor);
                match best {
                    Some(version) => Some(version.clone()),
                    None if found.is_empty() => None,
                    None => return Err(Error::protocol("the image service speaks no version 2")),
                }
            }
            // Some proxies show nothing at the root.
            Err(error) if error.status().is_some_and(|status| status.is_client_error()) => None,
            Err(error) if error.kind() == ErrorKind::Protocol => None,
            Err(error) => return Err(error),
        };
        let base = join_version(&root, version.as_ref().unwrap_or(&usual))?;
        Ok(Self {
            service: service.at(base)?,
            version: version.map(|version| (version.major, version.minor)),
            schema: Arc::default(),
        })
    }

    /// The session.
    #[must_use]
    pub fn session(&self) -> &Session {
        self.service.session()
    }

    /// The URL of version 2.
    #[must_use]
    pub fn url(&self) -> &Url {
        self.service.base()
    }

    /// The newest version that the server offers, such as `(2, 17)`; `None` if it does not tell.
    #[must_use]
    pub fn version(&self) -> Option<(u32, u32)> {
        self.version
    }

    /// Sends a call: see [`image`](mod@image).
    ///
    /// # Errors
    /// As [`ServiceClient::call`].
    pub async fn call<T>(&self, call: Call<T>) -> Result<T> {
        self.service.call(call).await
    }

    /// What the cloud accepts; asked once.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn schema(&self) -> Result<&ImageSchema> {
        self.schema.get_or_try_init(|| self.call(image::schema())).await
    }

    /// Makes an image after comparing its formats with those that the cloud accepts.
    ///
    /// # Errors
    /// [`ErrorKind::UnsupportedFormat`] before anything is made; else as [`image::create`].
    pub async fn create(&self, image: &NewImage) -> Result<Image> {
        self.schema().await?.check(image)?;
        self.call(image::create(image)).await
    }

    /// All images of a query as a stream: a page is asked for when the one before it is used up.
    ///
    /// The stream ends after its first error: what [`call`](Self::call) says, or [`ErrorKind::Protocol`] if the pages do not
    /// come to an end.
    ///
    /// ```
    /// use futures_util::TryStreamExt;
    /// use glance_client::image::{ContainerFormat, DiskFormat, ListQuery, NewImage};
    /// # use glance_client::keystone::{Domain, Principal, Scope, Session};
    /// # use glance_client::{CloudConfig, Glance};
    /// # use simulator::openstack::{OpenStack, OpenStackConfig};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// # let server = OpenStack::start(OpenStackConfig::new()).await?;
    /// # let named = |name: &str| Principal::named(name, Domain::Name("Default".into()));
    /// # let cloud = CloudConfig::builder(server.auth_url())
    /// #     .with_password(named(server.config().username()), server.config().password())
    /// #     .with_scope(Scope::Project(named(server.config().project())))
    /// #     .build()?;
    /// # let glance = Glance::connect(&Session::connect(&cloud).await?).await?;
    /// for name in ["a", "b", "c"] {
    ///     let image = NewImage::new(name, DiskFormat::Raw, ContainerFormat::Bare).with_tag("web");
    ///     glance.create(&image).await?;
    /// }
    /// let mut images = glance.images(&ListQuery::new().with_tag("web").with_limit(2));
    /// let mut names = Vec::new();
    /// while let Some(image) = images.try_next().await? {
    ///     names.extend(image.name);
    /// }
    /// names.sort();
    /// assert_eq!(names, ["a", "b", "c"]);
    /// # server.stop().await;
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    #[must_use]
    pub fn images(&self, query: &ListQuery) -> ImageStream {
        image::images(&self.service, query)
    }

    /// All images of a query in memory.
    ///
    /// # Errors
    /// As [`images`](Self::images); [`ErrorKind::Protocol`] if there are more than `limit` images.
    pub async fn list_all(&self, query: &ListQuery, limit: usize) -> Result<Vec<Image>> {
        let mut all = Vec::new();
        let mut images = self.images(query);
        while let Some(image) = images.next().await {
            all.push(image?);
            if all.len() > limit {
                return Err(Error::protocol(format!("images: list: there are more than {limit}")));
            }
        }
        Ok(all)
    }

    /// Sends an image's data: `PUT /v2/images/{id}/file`. The image must be `queued`.
    ///
    /// An answer that comes while the data is still being sent ends the upload at once. When this succeeds, the image
    /// still has to become active ([`wait`](Self::wait)) and to be compared ([`verify`](crate::image::verify())).
    ///
    /// # Errors
    /// [`ErrorKind::UnsupportedFormat`] (before or after sending), [`ErrorKind::TooLarge`], [`ErrorKind::Conflict`],
    /// [`ErrorKind::Source`] if the producer fails or has another length, [`ErrorKind::Timeout`],
    /// [`ErrorKind::Cancelled`], and what [`call`](Self::call) says.
    pub async fn upload(&self, id: &str, mut upload: Upload) -> Result<Uploaded> {
        Box::pin(image::upload(&self.service, id, &mut upload)).await
    }

    /// Makes an image, sends its data, waits until it is active and compares the server's digest with that of what was
    /// sent.
    ///
    /// If the connection breaks, the server fails or Glance loses the data, they are sent again into the same image, if
    /// they can be [made again](Upload::replayable). If that does not help, or the data is refused (its format, its
    /// size, a digest that differs), the image is deleted, and the error says so where it could not be. For that to hold
    /// after a lost answer as well, the image needs an [id of the caller's choice](NewImage::with_id).
    ///
    /// The digests are MD5 and SHA-512. A cloud that keeps neither (SHA-256, say, and no MD5) costs one more pass over the
    /// data, without sending them.
    ///
    /// Whoever drops the future leaves the image; [`Upload::with_cancel`] cleans up.
    ///
    /// # Errors
    /// As [`create`](Self::create), [`upload`](Self::upload), [`wait`](Self::wait) and
    /// [`verify`](crate::image::verify()).
    ///
    /// ```
    /// # use glance_client::image::{ContainerFormat, DiskFormat, NewImage, StoreOptions};
    /// # use glance_client::{Glance, Upload};
    /// # async fn example(glance: &Glance) -> Result<(), glance_client::Error> {
    /// let image = NewImage::new("web01", DiskFormat::Qcow2, ContainerFormat::Bare);
    /// let stored = glance.store(&image, Upload::from_file("web01.qcow2")?, &StoreOptions::default()).await?;
    /// println!("{}: {} {}", stored.image.id, stored.compared, stored.digests.sha512.unwrap_or_default());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn store(
        &self,
        image: &NewImage,
        upload: Upload,
        options: &StoreOptions,
    ) -> Result<Stored> {
        self.schema().await?.check(image)?;
        Box::pin(image::store(&self.service, image, upload, options)).await
    }

    /// The same for an image that is there and `queued`. It stays, whatever happens.
    ///
    /// # Errors
    /// As [`store`](Self::store).
    pub async fn fill(&self, id: &str, upload: Upload, options: &StoreOptions) -> Result<Stored> {
        Box::pin(image::fill(&self.service, id, upload, options)).await
    }

    /// Sends data to the stage, from where an [import](Self::import) takes it: `PUT /v2/images/{id}/stage` (API 2.6). The
    /// image must be `queued` and is `uploading` afterwards. The format of the data is looked at by the import.
    ///
    /// # Errors
    /// As [`upload`](Self::upload); [`ErrorKind::NotFound`] if the cloud has no `glance-direct` import.
    pub async fn stage(&self, id: &str, upload: Upload) -> Result<Uploaded> {
        Box::pin(image::stage(&self.service, id, upload)).await
    }

    /// Starts an [import](image::import()) and waits for its end, as long as it moves.
    ///
    /// The image is active afterwards. An import plugin of the cloud may have converted the data: then size and digests are
    /// not those of the source.
    ///
    /// ```
    /// use glance_client::Upload;
    /// use glance_client::image::{ContainerFormat, DiskFormat, Import, ImportOptions, NewImage};
    /// # use glance_client::keystone::{Domain, Principal, Scope, Session};
    /// # use glance_client::{CloudConfig, Glance};
    /// # use simulator::openstack::{OpenStack, OpenStackConfig};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// # let server = OpenStack::start(OpenStackConfig::new()).await?;
    /// # let named = |name: &str| Principal::named(name, Domain::Name("Default".into()));
    /// # let cloud = CloudConfig::builder(server.auth_url())
    /// #     .with_password(named(server.config().username()), server.config().password())
    /// #     .with_scope(Scope::Project(named(server.config().project())))
    /// #     .build()?;
    /// # let glance = Glance::connect(&Session::connect(&cloud).await?).await?;
    /// let image = NewImage::new("two copies", DiskFormat::Raw, ContainerFormat::Bare);
    /// let image = glance.create(&image).await?;
    /// glance.stage(&image.id, Upload::from_bytes("abc")).await?;
    /// let import = Import::staged().with_store("fast").with_store("slow");
    /// let done = glance.import(&image.id, &import, &ImportOptions::default()).await?;
    /// assert_eq!(done.image.stores, ["fast", "slow"]);
    /// assert!(done.failed.is_empty());
    /// # server.stop().await;
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Failed`] with the stores and the task's message if it failed, [`ErrorKind::Timeout`] if it no longer
    /// moves, [`ErrorKind::Cancelled`], and what [`image::import`](image::import()) says.
    pub async fn import(
        &self,
        id: &str,
        import: &Import,
        options: &ImportOptions,
    ) -> Result<Imported> {
        image::run_import(&self.service, id, import, options).await
    }

    /// Gets an image's data: `GET /v2/images/{id}/file`. The stream is verified, and goes on from where a connection broke:
    /// see [`Download`].
    ///
    /// ```
    /// use futures_util::TryStreamExt;
    /// use glance_client::Upload;
    /// use glance_client::image::{ContainerFormat, DiskFormat, DownloadOptions, NewImage};
    /// # use glance_client::keystone::{Domain, Principal, Scope, Session};
    /// # use glance_client::{CloudConfig, Glance};
    /// # use simulator::openstack::{OpenStack, OpenStackConfig};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// # let server = OpenStack::start(OpenStackConfig::new()).await?;
    /// # let named = |name: &str| Principal::named(name, Domain::Name("Default".into()));
    /// # let cloud = CloudConfig::builder(server.auth_url())
    /// #     .with_password(named(server.config().username()), server.config().password())
    /// #     .with_scope(Scope::Project(named(server.config().project())))
    /// #     .build()?;
    /// # let glance = Glance::connect(&Session::connect(&cloud).await?).await?;
    /// let image = NewImage::new("there and back", DiskFormat::Raw, ContainerFormat::Bare);
    /// let image = glance.create(&image).await?;
    /// glance.upload(&image.id, Upload::from_bytes("abcdef")).await?;
    ///
    /// let whole = glance.download(&image.id, &DownloadOptions::new()).await?;
    /// assert_eq!((whole.len, whole.verified_by.as_deref()), (Some(6), Some("sha512")));
    /// let pieces: Vec<_> = whole.stream.try_collect().await?;
    /// assert_eq!(pieces.concat(), b"abcdef");
    ///
    /// let part = DownloadOptions::new().with_range(2, Some(3));
    /// let part = glance.download(&image.id, &part).await?;
    /// let pieces: Vec<_> = part.stream.try_collect().await?;
    /// assert_eq!(pieces.concat(), b"cde");
    /// # server.stop().await;
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is no image, or no data in it; [`ErrorKind::Forbidden`] if it is deactivated;
    /// [`ErrorKind::Mismatch`] if the server has no digest to verify it by; else as [`call`](Self::call).
    pub async fn download(&self, id: &str, options: &DownloadOptions) -> Result<Download> {
        image::download(&self.service, id, options).await
    }

    /// Waits until an image is active.
    ///
    /// # Errors
    /// [`ErrorKind::Failed`] for a state from which it does not become active, [`ErrorKind::Timeout`],
    /// [`ErrorKind::Cancelled`], and what [`call`](Self::call) says.
    pub async fn wait(&self, id: &str, options: &WaitOptions) -> Result<Image> {
        image::wait(&self.service, id, options).await
    }

    /// Waits until a task has done what it is for. Glance shows single tasks to administrators only; an
    /// [import](Self::import) is waited for by everyone.
    ///
    /// # Errors
    /// [`ErrorKind::Failed`] with the task's message if it failed, [`ErrorKind::Timeout`], [`ErrorKind::Cancelled`], and
    /// what [`call`](Self::call) says.
    pub async fn wait_for_task(&self, id: &str, timeout: Duration, pace: &Pace) -> Result<Task> {
        task::wait(&self.service, id, timeout, pace).await
    }
}

//! Where the token goes, by the catalogue; over a transport that is no network.

#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use glance_client::keystone::{
    CloudConfigBuilder, Domain, EndpointQuery, Principal, Scope, Session,
};
use glance_client::{
    Body, BodyStream, CloudConfig, Error, ErrorKind, Glance, Result, Transport, body_of, image,
};
use serde_json::{Value, json};

/// A cloud whose catalogue has these endpoints; notes who was asked with a token.
#[derive(Clone, Debug)]
struct Cloud {
    catalog: Value,
    told: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl Transport for Cloud {
    async fn send(&self, request: http::Request<Body>) -> Result<http::Response<BodyStream>> {
        if request.headers().contains_key("x-auth-token") {
            self.told.lock().unwrap().push(request.uri().to_string());
        }
        let answer = http::Response::builder();
        let (answer, body) = match request.uri().path() {
            path if path.ends_with("/auth/tokens") => (
                answer.status(201).header("x-subject-token", "secret-token"),
                json!({"token": {"expires_at": "2031-01-01T01:00:00Z", "issued_at": "2031-01-01T00:00:00Z",
                    "catalog": self.catalog}}),
            ),
            path if path.contains("/v2/images") => (answer.status(200), json!({"images": []})),
            _ => (answer.status(404), json!({})),
        };
        Ok(answer.body(body_of(body.to_string())).unwrap())
    }
}

impl Cloud {
    /// One image service at this URL.
    fn at(url: &str) -> Self {
        Self::of(json!([{"type": "image", "endpoints": [{"interface": "public", "url": url}]}]))
    }

    fn of(catalog: Value) -> Self {
        Self { catalog, told: Arc::default() }
    }

    async fn session(&self, config: CloudConfigBuilder) -> Session {
        Session::connect_with(&config.build().unwrap(), Arc::new(self.clone())).await.unwrap()
    }

    /// Lists images; gives the URLs that got the token.
    async fn list(&self, config: CloudConfigBuilder) -> Result<Vec<String>, Error> {
        let glance = Glance::connect(&self.session(config).await).await?;
        glance.call(image::list(&image::ListQuery::new())).await?;
        Ok(self.told.lock().unwrap().clone())
    }
}

fn config(auth_url: &str) -> CloudConfigBuilder {
    let demo = || Principal::named("demo", Domain::default());
    CloudConfig::builder(auth_url)
        .with_password(demo(), "password")
        .with_scope(Scope::Project(demo()))
}

const SAFE: &str = "https://keystone.example/v3";

#[tokio::test]
async fn a_token_that_came_by_tls_does_not_go_on_without() {
    for url in [
        "http://glance.example:9292",
        "http://10.0.0.1:9292/v2",
        "http://[2001:db8::1]:9292",
        "http://localhost.example",
        "http://126.255.255.255",
    ] {
        let cloud = Cloud::at(url);
        let error = cloud.list(config(SAFE)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Catalog, "{url}: {error}");
        for words in ["http://", "image_endpoint_override (OS_IMAGE_ENDPOINT_OVERRIDE)"] {
            assert!(error.to_string().contains(words), "{error}");
        }
        assert_eq!(*cloud.told.lock().unwrap(), [""; 0], "{url}");
    }
    // The key is that of the service.
    let volumes =
        json!([{"type": "volumev3", "endpoints": [{"interface": "public", "url": "http://h"}]}]);
    let session = Cloud::of(volumes).session(config(SAFE)).await;
    let error = session.service(&EndpointQuery::new("block-storage")).unwrap_err();
    assert!(error.to_string().contains("as block_storage_endpoint_override"), "{error}");
}

#[tokio::test]
async fn it_goes_where_nobody_listens_or_somebody_has_allowed_it() {
    for (url, builder, first) in [
        ("https://glance.example", config(SAFE), "https://glance.example/"),
        ("http://localhost:9292", config(SAFE), "http://localhost:9292/"),
        ("http://127.1.2.3/image", config(SAFE), "http://127.1.2.3/image"),
        ("http://[::1]:9292", config(SAFE), "http://[::1]:9292/"),
        (
            "http://glance.example",
            config(SAFE).danger_send_token_in_clear(),
            "http://glance.example/",
        ),
        (
            "http://glance.example",
            config(SAFE).with_endpoint_override("image", "http://other.example"),
            "http://other.example/",
        ),
        // Whoever logs in without TLS has no secret to keep.
        ("http://glance.example", config("http://keystone.example/v3"), "http://glance.example/"),
    ] {
        let told =
            Cloud::at(url).list(builder).await.unwrap_or_else(|error| panic!("{url}: {error}"));
        assert_eq!(told[0], first);
        assert!(told[1].ends_with("/v2/images"), "{told:?}");
    }
}

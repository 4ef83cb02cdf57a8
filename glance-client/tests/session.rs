//! Logins, tokens, discovery, redirects and secrets, against a scripted cloud.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use glance_client::image::{ListQuery, get, list};
use glance_client::keystone::{
    Auth, CloudConfig, Domain, EndpointQuery, Principal, Scope, Session,
};
use glance_client::{ErrorKind, Glance, Upload};
use serde_json::json as value;
use support::{Cloud, ID, PASSWORD, Reply, answer, image, json, take};

const IMAGE: &str = "/v2/images/9b4b0a5c-6d41-4f3b-9d6f-0b1e5a6a2c11";

#[tokio::test]
async fn the_newest_minor_is_found_and_the_catalogues_host_is_kept() {
    let cloud = Cloud::start(3600, |_| Reply::Default).await;
    let glance = cloud.glance().await;
    assert_eq!(glance.version(), Some((2, 17)));
    assert_eq!(glance.url().as_str(), format!("{}/v2", cloud.url));
}

#[tokio::test]
async fn any_form_of_the_catalogues_url_will_do() {
    let cloud = Cloud::start(3600, |request| match request.path.as_str() {
        "/image" => Reply::Send(json(
            "300 Multiple Choices",
            &value!({"versions": [{"id": "v2.4", "links": [{"rel": "self", "href": "http://inside:9292/v2/"}]}]}),
        )),
        "/hidden" => Reply::Send(answer("404 Not Found", &[], "<h1>nginx</h1>")),
        "/html" => Reply::Send(answer("200 OK", &[], "<h1>Welcome</h1>")),
        "/old" => Reply::Send(json("200 OK", &value!({"versions": [{"id": "v1.1", "links": []}]}))),
        _ => Reply::Default,
    })
    .await;
    let session = cloud.session().await;
    let at = async |path: &str| {
        Glance::connect_at(&session, format!("{}{path}", cloud.url).parse().unwrap()).await
    };
    for (path, found) in [
        ("", "/v2"),
        ("/", "/v2"),
        ("/v2", "/v2"),
        ("/v2/", "/v2"),
        ("/image", "/image/v2"),
        ("/image/v2/", "/image/v2"),
        ("/hidden", "/hidden/v2"),
        ("/html/", "/html/v2"),
    ] {
        assert_eq!(at(path).await.unwrap().url().path(), found, "{path}");
    }
    assert_eq!(at("/old").await.unwrap_err().kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn keystone_is_found_from_its_root() {
    let cloud = Cloud::start(3600, |request| match request.path.as_str() {
        "/" => Reply::Send(json(
            "300 Multiple Choices",
            &value!({"versions": {"values": [{"id": "v3.14", "status": "stable", "links": [
                {"rel": "self", "href": "http://10.0.0.1:5000/v3/"}]}]}}),
        )),
        "/two" => Reply::Send(json("200 OK", &value!({"versions": [{"id": "v2.0", "links": []}]}))),
        _ => Reply::Default,
    })
    .await;
    for ending in ["", "/", "/v3", "/v3/", "/v2.0", "/v2.0/"] {
        let mut config = cloud.config();
        config.auth_url = format!("{}{ending}", cloud.url).parse().unwrap();
        let session = Session::connect(&config).await.unwrap();
        assert_eq!(session.identity_url().as_str(), format!("{}/v3", cloud.url), "{ending}");
    }
    let mut config = cloud.config();
    config.auth_url = format!("{}/two", cloud.url).parse().unwrap();
    let error = Session::connect(&config).await.unwrap_err();
    assert!(error.to_string().contains("no v3"), "{error}");
}

#[tokio::test]
async fn many_callers_with_an_old_token_cause_one_login() {
    let cloud = Cloud::start(3600, |request| match (request.method.as_str(), request.token()) {
        ("GET", "token-1") if request.path != "/" => {
            Reply::Send(answer("401 Unauthorized", &[], "expired"))
        }
        ("GET", _) if request.path != "/" => Reply::Send(json("200 OK", &image("active"))),
        _ => Reply::Default,
    })
    .await;
    let glance = cloud.glance().await;
    let calls = (0..20).map(|_| glance.call(get(ID)));
    for result in futures_util::future::join_all(calls).await {
        result.unwrap();
    }
    assert_eq!(cloud.logins(), 2);
}

#[tokio::test]
async fn a_login_that_fails_is_not_tried_by_everyone_who_waits_for_it() {
    let count = Arc::new(AtomicUsize::new(0));
    let logins = Arc::clone(&count);
    let cloud = Cloud::start(3600, move |request| {
        if request.method != "POST" || logins.fetch_add(1, Ordering::SeqCst) == 0 {
            return Reply::Default;
        }
        take(|mut tcp, _| async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let refused = answer("401 Unauthorized", &[("Connection", "close")], "locked soon");
            tokio::io::AsyncWriteExt::write_all(&mut tcp, &refused).await.unwrap();
        })
    })
    .await;
    let session = cloud.session().await;
    let stale = session.current();
    let all = futures_util::future::join_all((0..20).map(|_| session.replace(&stale))).await;
    for result in all {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized);
        assert_eq!(error.status().unwrap().as_u16(), 401);
        assert!(error.to_string().contains("locked soon"), "{error}");
    }
    assert_eq!(count.load(Ordering::SeqCst), 2, "users are locked out after a few");
    // Who comes later asks anew.
    session.replace(&stale).await.unwrap_err();
    assert_eq!(count.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_revocation_that_is_not_answered_ends() {
    let cloud = Cloud::start(3600, |request| match request.method.as_str() {
        "DELETE" => take(|tcp, _| async move {
            std::future::pending::<()>().await;
            drop(tcp);
        }),
        _ => Reply::Default,
    })
    .await;
    let mut config = cloud.config();
    config.timeout = Duration::from_millis(300);
    let session = Session::connect(&config).await.unwrap();
    let revoked = tokio::time::timeout(Duration::from_secs(10), session.revoke()).await;
    let error = revoked.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
}

#[tokio::test]
async fn a_refused_token_that_the_server_repeats_is_in_no_error() {
    let cloud = Cloud::start(3600, |request| match request.method.as_str() {
        "GET" if request.path.starts_with("/v2/images") => {
            Reply::Send(answer("401 Unauthorized", &[], &format!("{} is bad", request.token())))
        }
        _ => Reply::Default,
    })
    .await;
    let mut config = cloud.config();
    config.auth = Auth::Token("given".into());
    let glance = Glance::connect(&Session::connect(&config).await.unwrap()).await.unwrap();
    let error = glance.call(get(ID)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(!format!("{error} {error:?}").contains("token-1"), "{error:?}");
    // Cut in the middle, it is still none.
    let long = Cloud::start(3600, |request| match request.method.as_str() {
        "GET" if request.path.starts_with("/v2/images") => {
            let text = format!("{}{}", "x".repeat(390), request.token());
            Reply::Send(answer("403 Forbidden", &[], &text))
        }
        "POST" => Reply::Send(
            String::from_utf8(support::token("http://127.0.0.1:1", 3600, 1))
                .unwrap()
                .replace("token-1", "gAAAAABsecretsecret")
                .into_bytes(),
        ),
        _ => Reply::Default,
    })
    .await;
    let session = long.session().await;
    let glance = Glance::connect_at(&session, long.url.parse().unwrap()).await.unwrap();
    let error = glance.call(get(ID)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden);
    assert!(!format!("{error} {error:?}").contains("gAAAA"), "{error:?}");
}

#[tokio::test]
async fn a_token_with_less_than_two_minutes_left_is_replaced_first() {
    let number = Arc::new(AtomicUsize::new(0));
    let url = Arc::new(std::sync::Mutex::new(String::new()));
    let (count, at) = (Arc::clone(&number), Arc::clone(&url));
    let cloud = Cloud::start(3600, move |request| {
        if request.method != "POST" {
            return Reply::Default;
        }
        // The first token comes from a cache and is nearly over; its life was an hour.
        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
        let mut text =
            String::from_utf8(support::token(&at.lock().unwrap(), 3600, number)).unwrap();
        if number == 1 {
            text = text.replace("2031-01-01T00:00:00", "2031-01-01T00:59:57");
        }
        Reply::Send(text.into_bytes())
    })
    .await;
    *url.lock().unwrap() = cloud.url.clone();
    let session = cloud.session().await;
    // By its own two times this token lives for three seconds, so it is young at first…
    assert_eq!(session.current().lifetime(), Duration::from_secs(3));
    session.token().await.unwrap();
    assert_eq!(number.load(Ordering::SeqCst), 1);
    // …and old a little later.
    tokio::time::sleep(Duration::from_millis(2000)).await;
    assert_eq!(session.token().await.unwrap().secret().expose(), "token-2");
}

#[tokio::test]
async fn a_token_that_still_lives_serves_while_keystone_does_not() {
    let count = Arc::new(AtomicUsize::new(0));
    let logins = Arc::clone(&count);
    let cloud = Cloud::start(8, move |request| {
        if request.method != "POST" || logins.fetch_add(1, Ordering::SeqCst) == 0 {
            return Reply::Default;
        }
        Reply::Send(answer("503 Service Unavailable", &[], "restarting"))
    })
    .await;
    let session = cloud.session().await;
    // From half of its life on it is to be replaced.
    tokio::time::sleep(Duration::from_millis(4200)).await;
    assert_eq!(session.token().await.unwrap().secret().expose(), "token-1");
    assert_eq!(count.load(Ordering::SeqCst), 2);
    // What needs more of it than there is must not begin.
    let error = session.token_for(Duration::from_secs(3600)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Server, "{error}");
}

#[tokio::test]
async fn a_new_token_that_is_refused_too_is_told_with_the_likely_reason() {
    // As seen: a call that the access rules do not allow is a 401 that talks of passwords.
    for (bound, words) in [(true, "access rules"), (false, "belong to that Keystone")] {
        let cloud = Cloud::start(3600, move |request| match request.method.as_str() {
            "POST" if bound => {
                let body = value!({"token": {"expires_at": "2031-01-01T01:00:00Z", "catalog": [],
                    "application_credential": {"id": "c", "name": "ci", "access_rules": []}}});
                let headers = [("X-Subject-Token", "token")];
                Reply::Send(answer("201 Created", &headers, &body.to_string()))
            }
            "GET" if request.path != "/" => {
                Reply::Send(answer("401 Unauthorized", &[], "e.g., bad password"))
            }
            _ => Reply::Default,
        })
        .await;
        let session = cloud.session().await;
        let glance = Glance::connect_at(&session, cloud.url.parse().unwrap()).await.unwrap();
        let error = glance.call(get(ID)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized);
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_given_token_is_never_renewed() {
    let cloud = Cloud::start(3600, |request| {
        if request.path == IMAGE {
            Reply::Send(answer("401 Unauthorized", &[], "expired"))
        } else {
            Reply::Default
        }
    })
    .await;
    let mut config = cloud.config();
    config.auth = Auth::Token("given".into());
    let glance = Glance::connect(&Session::connect(&config).await.unwrap()).await.unwrap();
    let error = glance.call(get(ID)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert_eq!(cloud.logins(), 1);
}

#[tokio::test]
async fn a_kept_token_saves_the_login_until_it_is_old_or_refused() {
    let cloud = Cloud::start(3600, |request| {
        if request.method != "GET" || request.path != "/v3/auth/tokens" {
            return Reply::Default;
        }
        assert_eq!(request.token(), request.headers["x-subject-token"]);
        // Keystone knows no token of a credential with access rules otherwise.
        if request.headers.get("openstack-identity-access-rules").is_none_or(|v| v != "1.0") {
            return Reply::Send(answer("404 Not Found", &[], "Failed to validate token"));
        }
        let date = match request.token() {
            "fresh" => "Wed, 01 Jan 2031 00:30:00 GMT",
            "bound" => "Wed, 01 Jan 2031 00:30:00 GMT",
            "old" => "Wed, 01 Jan 2031 00:59:00 GMT",
            "broken" => return Reply::Send(answer("500 Internal Server Error", &[], "broken")),
            "many" => return Reply::Send(answer("429 Too Many Requests", &[], "later")),
            _ => return Reply::Send(answer("404 Not Found", &[], "no such token")),
        };
        let mut body = value!({"token": {
            "user": {"id": "u", "name": "demo", "domain": {"id": "default", "name": "Default"}},
            "project": {"id": "p", "name": "demo", "domain": {"id": "default", "name": "Default"}},
            "issued_at": "2031-01-01T00:00:00.000000Z", "expires_at": "2031-01-01T01:00:00.000000Z",
            "catalog": []}});
        if request.token() == "bound" {
            body["token"]["application_credential"] =
                value!({"id": "c1", "name": "ci", "restricted": true});
        }
        let headers = [("X-Subject-Token", request.token()), ("Date", date)];
        Reply::Send(answer("200 OK", &headers, &body.to_string()))
    })
    .await;
    let session = Session::resume(&cloud.config(), &"fresh".into()).await.unwrap();
    assert_eq!((session.current().secret().expose(), cloud.logins()), ("fresh", 0));
    let left = session.current().remaining();
    assert!(left <= Duration::from_secs(1800) && left > Duration::from_secs(1700), "{left:?}");
    for (kept, logins) in [("old", 1), ("unknown", 2), ("", 3)] {
        let session = Session::resume(&cloud.config(), &kept.into()).await.unwrap();
        let now = session.current().secret().expose().to_owned();
        assert_eq!((now, cloud.logins()), (format!("token-{logins}"), logins), "{kept}");
    }
    // An application credential has a project of its own, in which no other token of its user may work.
    let by_id = |id: &str| Auth::ApplicationCredential { id: id.to_owned(), secret: "s".into() };
    let by_name = |name: &str| Auth::NamedApplicationCredential {
        name: name.to_owned(),
        user: Principal::id("u"),
        secret: "s".into(),
    };
    for (auth, kept, is_taken) in [
        (by_id("c1"), "bound", true),
        (by_name("ci"), "bound", true),
        (by_id("c2"), "bound", false),
        (by_name("other"), "bound", false),
        (by_id("c1"), "fresh", false),
        (by_name("ci"), "fresh", false),
    ] {
        let mut config = cloud.config();
        (config.auth, config.scope) = (auth.clone(), Scope::Unspecified);
        let session = Session::resume(&config, &kept.into()).await.unwrap();
        assert_eq!(session.current().secret().expose() == kept, is_taken, "{auth:?} {kept}");
    }
    cloud.logins.store(3, Ordering::SeqCst);
    // A Keystone that fails is not a token that is refused.
    for kept in ["broken", "many"] {
        let error = Session::resume(&cloud.config(), &kept.into()).await.unwrap_err();
        assert_eq!((error.kind(), cloud.logins()), (ErrorKind::Server, 3), "{error}");
    }
    // The same names in another domain are somebody else.
    let mut config = cloud.config();
    config.scope = Scope::Project(Principal::named("demo", Domain::Id("other".to_owned())));
    let session = Session::resume(&config, &"fresh".into()).await.unwrap();
    assert_eq!(session.current().secret().expose(), "token-4");
}

#[tokio::test]
async fn a_connection_that_the_server_has_let_go_costs_no_call() {
    // As gunicorn does after two seconds, here at once: each answer says keep-alive, and then the connection is closed.
    let cloud = Cloud::start(3600, |request| {
        let body = image("queued").to_string();
        let bytes = match request.path.as_str() {
            IMAGE | "/v2/images" => answer("200 OK", &[("Connection", "keep-alive")], &body),
            _ => return Reply::Default,
        };
        take(move |mut tcp, _| async move {
            use tokio::io::AsyncWriteExt;
            tcp.write_all(&bytes).await.unwrap();
        })
    })
    .await;
    let glance = cloud.glance().await;
    let new = glance_client::image::NewImage::new("x", "raw".into(), "bare".into());
    for round in 0..20 {
        glance.call(glance_client::image::create(&new)).await.unwrap();
        glance.call(get(ID)).await.unwrap();
        // With and without time to notice.
        tokio::time::sleep(Duration::from_millis(round % 3)).await;
    }
    assert_eq!(
        cloud.seen("POST", "/v2/images").len(),
        20,
        "a call that changes things was repeated"
    );
}

#[tokio::test]
async fn redirects_stay_on_the_host_that_has_the_token() {
    let other = Cloud::start(3600, |_| Reply::Send(json("200 OK", &image("active")))).await;
    let target = format!("{}/v2/images/1", other.url);
    let cloud = Cloud::start(3600, move |request| match request.path.as_str() {
        "/v2/images/near" => {
            Reply::Send(answer("302 Found", &[("Location", "/v2/images/there")], ""))
        }
        "/v2/images/far" => {
            Reply::Send(answer("307 Temporary Redirect", &[("Location", &target)], ""))
        }
        "/v2/images/round" => {
            Reply::Send(answer("301 Moved", &[("Location", "/v2/images/round")], ""))
        }
        "/v2/images/there" => Reply::Send(json("200 OK", &image("active"))),
        _ => Reply::Default,
    })
    .await;
    let glance = cloud.glance().await;
    glance.call(get("near")).await.unwrap();
    let error = glance.call(get("far")).await.unwrap_err();
    assert!(error.to_string().contains("the token is not taken there"), "{error}");
    assert!(other.seen.lock().unwrap().is_empty());
    assert_eq!(glance.call(get("round")).await.unwrap_err().kind(), ErrorKind::Protocol);

    let mut config = cloud.config();
    config.auth_url = format!("{}/v3", other.url).parse().unwrap();
    let redirecting = Cloud::start(3600, |_| {
        Reply::Send(answer("307 T", &[("Location", "http://127.0.0.1:1/")], ""))
    })
    .await;
    config.auth_url = format!("{}/v3", redirecting.url).parse().unwrap();
    let error = Session::connect(&config).await.unwrap_err();
    assert!(error.to_string().contains("a password is not sent after a redirect"), "{error}");
}

#[tokio::test]
async fn a_password_in_the_catalogue_goes_nowhere() {
    let cloud = Cloud::start(3600, |request| match request.method.as_str() {
        "POST" => Reply::Send(support::token("http://u:hunter2@127.0.0.1:1", 3600, 1)),
        _ => Reply::Default,
    })
    .await;
    let session = cloud.session().await;
    let error = Glance::connect(&session).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Catalog, "{error}");
    assert!(!format!("{error:?} {session:?}").contains("hunter2"), "{error:?}");
}

#[tokio::test]
async fn a_hostile_list_does_not_lead_astray() {
    let cloud = Cloud::start(3600, |request| match request.path.as_str() {
        "/v2/images" => Reply::Send(json(
            "200 OK",
            &value!({"images": [{"id": "1"}], "next": "/v2/images?marker=1"}),
        )),
        "/v2/images?marker=1" => {
            Reply::Send(json("200 OK", &value!({"images": [], "next": "/v2/images?marker=1"})))
        }
        "/v2/images?name=loop" | "/v2/images?name=loop&marker=2" => Reply::Send(json(
            "200 OK",
            &value!({"images": [{"id": "1"}], "next": "/v2/images?marker=1"}),
        )),
        "/v2/images?name=loop&marker=1" => Reply::Send(json(
            "200 OK",
            &value!({"images": [{"id": "2"}], "next": "/v2/images?marker=2"}),
        )),
        "/v2/images?name=x" => {
            Reply::Send(json("200 OK", &value!({"images": [], "next": "http://evil/v2/images"})))
        }
        _ => Reply::Default,
    })
    .await;
    let glance = cloud.glance().await;
    for query in [ListQuery::new(), ListQuery::new().with_name("x")] {
        assert_eq!(glance.list_all(&query, 10).await.unwrap_err().kind(), ErrorKind::Protocol);
    }
    let error = glance.list_all(&ListQuery::new().with_name("loop"), 99).await.unwrap_err();
    assert!(error.to_string().contains("do not come to an end"), "{error}");
}

#[tokio::test]
async fn a_broken_connection_is_tried_again_where_that_changes_nothing() {
    let breaks = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&breaks);
    let cloud = Cloud::start(3600, move |request| {
        let fresh = request.path == "/" || request.path == "/v3/auth/tokens";
        if fresh || (request.method == "GET" && count.fetch_add(1, Ordering::SeqCst) % 2 == 1) {
            return Reply::Default;
        }
        take(|tcp, _| async move { drop(tcp) })
    })
    .await;
    let glance = cloud.glance().await;
    glance.call(get(ID)).await.unwrap();
    assert_eq!(breaks.load(Ordering::SeqCst), 2);
    let error = glance.call(glance_client::image::delete(ID)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transport);
    assert_eq!(cloud.seen("DELETE", IMAGE).len(), 1);
}

#[tokio::test]
async fn answers_are_bounded() {
    let cloud = Cloud::start(3600, |request| {
        if request.path != IMAGE {
            return Reply::Default;
        }
        take(|mut tcp, _| async move {
            use tokio::io::AsyncWriteExt;
            let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            let mut chunk = b"100000\r\n".to_vec();
            chunk.extend(vec![b' '; 1 << 20]);
            chunk.extend(b"\r\n");
            while tcp.write_all(&chunk).await.is_ok() {}
        })
    })
    .await;
    let error = cloud.glance().await.call(get(ID)).await.unwrap_err();
    assert!(error.to_string().contains("larger than"), "{error}");
}

#[tokio::test]
async fn a_silent_server_is_a_timeout() {
    let cloud = Cloud::start(3600, |request| {
        if request.path != IMAGE {
            return Reply::Default;
        }
        take(|tcp, _| async move {
            tokio::time::sleep(Duration::from_secs(60)).await;
            drop(tcp);
        })
    })
    .await;
    let mut config = cloud.config();
    config.timeout = Duration::from_millis(300);
    let glance = Glance::connect(&Session::connect(&config).await.unwrap()).await.unwrap();
    assert_eq!(glance.call(get(ID)).await.unwrap_err().kind(), ErrorKind::Timeout);

    config.auth_url = "http://127.0.0.1:1/v3".parse().unwrap();
    let error = Session::connect(&config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transport);
    assert!(error.to_string().contains("cannot connect to http://127.0.0.1:1"), "{error}");
}

#[tokio::test]
async fn overrides_and_regions_come_from_the_configuration() {
    let cloud = Cloud::start(3600, |_| Reply::Default).await;
    let builder = || {
        CloudConfig::builder(format!("{}/v3", cloud.url))
            .with_password(Principal::named("demo", Domain::default()), PASSWORD)
    };
    let config = builder().with_endpoint_override("image", "https://elsewhere/x").build().unwrap();
    let session = Session::connect(&config).await.unwrap();
    assert_eq!(
        session.endpoint(&EndpointQuery::new("image")).unwrap().as_str(),
        "https://elsewhere/x"
    );
    let config = builder().with_region("two").build().unwrap();
    let session = Session::connect(&config).await.unwrap();
    let error = session.endpoint(&EndpointQuery::new("image")).unwrap_err();
    assert!(error.to_string().contains("region \"two\"; it has one"), "{error}");
}

#[tokio::test]
async fn no_secret_is_ever_printed() {
    let cloud = Cloud::start(3600, |request| match request.path.as_str() {
        IMAGE if request.method == "GET" => {
            // A server that repeats what it was given.
            Reply::Send(answer("400 Bad Request", &[], &format!("bad token {}", request.token())))
        }
        _ => Reply::Default,
    })
    .await;
    let config = cloud.config();
    let session = Session::connect(&config).await.unwrap();
    let glance = Glance::connect(&session).await.unwrap();
    let error = glance.call(get(ID)).await.unwrap_err();
    let upload = Upload::from_bytes("x");
    let printed = format!(
        "{config:?} {session:?} {glance:?} {error} {error:?} {:?} {:?} {upload:?} {:?}",
        session.current(),
        session.service_at(session.identity_url().clone()),
        list(&ListQuery::new()),
    );
    for secret in [PASSWORD, "token-1"] {
        assert!(!printed.contains(secret), "{secret} is in {printed}");
    }
    assert!(error.to_string().contains("bad token [redacted]"), "{error}");

    let echo = Cloud::start(3600, |request| {
        let text = String::from_utf8_lossy(&request.body).into_owned();
        Reply::Send(answer("401 Unauthorized", &[], &text))
    })
    .await;
    let error = Session::connect(&echo.config()).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains(PASSWORD), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
}

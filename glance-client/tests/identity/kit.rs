//! The expectations.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use glance_client::image::{ListQuery, list};
use glance_client::keystone::{
    Auth, Domain, EndpointQuery, Interface, Principal, Scope, Session, Token,
};
use glance_client::{Call, CloudConfig, ErrorKind, Glance, Secret};
use http::Method;
use serde_json::{Value, json};

use super::Users;

async fn log_in(config: &CloudConfig, scope: Scope) -> Session {
    let mut config = config.clone();
    config.scope = scope;
    Session::connect(&config).await.unwrap()
}

fn scope_of(token: &Token) -> (bool, bool, bool) {
    (token.project.is_some(), token.domain.is_some(), token.system)
}

/// Sends a call of our own to Keystone.
async fn ask(session: &Session, method: Method, path: &str, body: Value) -> Value {
    let identity = session.service_at(session.identity_url().clone());
    let call = Call::new("identity", method, path, |answer| {
        if answer.body.is_empty() { Ok(Value::Null) } else { answer.json() }
    });
    let call = if body.is_null() { call } else { call.with_json(&body) };
    identity.call(call).await.unwrap()
}

/// Whether the cloud is one that is set up to see tokens end: there a token may end while it is looked at.
fn lives_for_seconds(session: &Session) -> bool {
    let life = session.current().lifetime();
    if life < Duration::from_secs(10) {
        eprintln!("skipped: the tokens of this cloud live for {life:?}");
    }
    life < Duration::from_secs(10)
}

async fn lists_images(session: &Session) {
    let glance = Glance::connect(session).await.unwrap();
    glance.call(list(&ListQuery::new().with_limit(1))).await.unwrap();
}

/// Gives the administrator a role on the domain, where that is not so yet.
async fn domain_role(admin: &CloudConfig) {
    let session = Session::connect(admin).await.unwrap();
    let wanted = Scope::Domain(Domain::Id("default".to_owned()));
    let mut config = admin.clone();
    config.scope = wanted;
    if Session::connect(&config).await.is_ok() {
        return;
    }
    let roles = ask(&session, Method::GET, "roles?name=admin", Value::Null).await;
    let (role, user) = (roles["roles"][0]["id"].as_str().unwrap(), &session.current().user.id);
    let path = format!("domains/default/users/{user}/roles/{role}");
    ask(&session, Method::PUT, &path, Value::Null).await;
}

pub(crate) async fn a_password_gives_every_scope(users: &Users) {
    let plain = Session::connect(&users.plain).await.unwrap();
    let token = plain.current();
    assert_eq!(scope_of(&token), (true, false, false));
    lists_images(&plain).await;

    let by_id =
        log_in(&users.plain, Scope::Project(Principal::id(&token.project.as_ref().unwrap().id)));
    assert_eq!(by_id.await.current().project, token.project);

    let none = log_in(&users.plain, Scope::Unscoped).await;
    assert_eq!(scope_of(&none.current()), (false, false, false));
    assert!(none.catalog().services.is_empty() && none.current().roles.is_empty());

    // What a user has no role for is refused like a wrong password.
    for scope in [Scope::System, Scope::Domain(Domain::Id("default".to_owned()))] {
        let mut config = users.plain.clone();
        config.scope = scope;
        let error = Session::connect(&config).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    }

    let Some(admin) = &users.admin else { return };
    domain_role(admin).await;
    for domain in [Domain::Id("default".to_owned()), Domain::Name("Default".to_owned())] {
        let session = log_in(admin, Scope::Domain(domain)).await;
        let token = session.current();
        assert_eq!(scope_of(&token), (false, true, false));
        assert_eq!(token.domain.as_ref().unwrap().id, "default");
        assert!(token.roles.iter().any(|role| role == "admin"));
        session.endpoint(&EndpointQuery::new("image")).unwrap();
    }
    let session = log_in(admin, Scope::System).await;
    assert_eq!(scope_of(&session.current()), (false, false, true));
    session.endpoint(&EndpointQuery::new("identity")).unwrap();
}

/// As after a federated login: an unscoped token becomes one of a project.
pub(crate) async fn a_token_is_scoped_anew(users: &Users) {
    let unscoped = log_in(&users.plain, Scope::Unscoped).await;
    let mut config = users.plain.clone();
    config.auth = Auth::Token(unscoped.current().secret().clone());
    let session = Session::connect(&config).await.unwrap();
    assert_eq!(scope_of(&session.current()), (true, false, false));
    assert!(session.current().expires_at <= unscoped.current().expires_at);
    lists_images(&session).await;

    // Nothing renews it, and that is said before a login is tried.
    session.revoke().await.unwrap();
    let refused = session.replace(&session.current()).await.unwrap_err();
    assert!(refused.to_string().contains("cannot renew itself"), "{refused}");
}

pub(crate) async fn an_application_credential_by_id_and_by_name(users: &Users) {
    let session = Session::connect(&users.plain).await.unwrap();
    if lives_for_seconds(&session) {
        return;
    }
    let user = session.current().user.clone();
    let name = format!("identity-{}", uuid::Uuid::new_v4());
    let path = format!("users/{}/application_credentials", user.id);
    let body = json!({"application_credential": {"name": name}});
    let made = ask(&session, Method::POST, &path, body).await["application_credential"].take();
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    let secret = || Secret::new(text("secret"));
    let of_user = |user: Principal| Auth::NamedApplicationCredential {
        name: name.clone(),
        user,
        secret: secret(),
    };
    let domain = Domain::Name("Default".to_owned());
    for auth in [
        Auth::ApplicationCredential { id: text("id"), secret: secret() },
        of_user(Principal::id(&user.id)),
        of_user(Principal::named(&user.name, domain)),
    ] {
        let mut config = users.plain.clone();
        (config.auth, config.scope) = (auth, Scope::Unspecified);
        let bound = Session::connect(&config).await.unwrap();
        assert_eq!(bound.current().project, session.current().project);
        lists_images(&bound).await;
        // Its tokens are kept and renewed like others.
        let kept = bound.current().secret().clone();
        let again = Session::resume(&config, &kept).await.unwrap();
        assert_eq!(again.current().secret(), &kept);
        again.revoke().await.unwrap();
        lists_images(&again).await;
        assert_ne!(again.current().secret(), &kept);

        config.scope = Scope::System;
        let error = Session::connect(&config).await.unwrap_err();
        assert_eq!((error.kind(), error.status()), (ErrorKind::Config, None), "{error}");
    }
    let mut wrong = users.plain.clone();
    wrong.auth = Auth::ApplicationCredential { id: text("id"), secret: "wrong".into() };
    wrong.scope = Scope::Unspecified;
    let error = Session::connect(&wrong).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    ask(&session, Method::DELETE, &format!("{path}/{}", text("id")), Value::Null).await;
}

pub(crate) async fn a_kept_token_is_used_again_and_replaced_when_it_is_gone(users: &Users) {
    let first = Session::connect(&users.plain).await.unwrap();
    let kept = first.current().secret().clone();
    if lives_for_seconds(&first) {
        return;
    }
    let second = Session::resume(&users.plain, &kept).await.unwrap();
    assert_eq!(second.current().secret(), &kept);
    assert_eq!(second.current().lifetime(), first.current().lifetime());
    assert!(second.current().remaining() <= first.current().lifetime());
    assert_eq!(second.catalog(), first.catalog());
    lists_images(&second).await;

    first.revoke().await.unwrap();
    let third = Session::resume(&users.plain, &kept).await.unwrap();
    assert_ne!(third.current().secret(), &kept);
    lists_images(&third).await;
    for nonsense in ["", "not a token", "line\nbreak"] {
        let session = Session::resume(&users.plain, &nonsense.into()).await.unwrap();
        assert_ne!(session.current().secret().expose(), nonsense);
    }
}

pub(crate) async fn a_kept_token_of_another_scope_or_user_is_not_used(users: &Users) {
    let unscoped = log_in(&users.plain, Scope::Unscoped).await;
    let kept = unscoped.current().secret().clone();
    let session = Session::resume(&users.plain, &kept).await.unwrap();
    assert_ne!(session.current().secret(), &kept);
    assert_eq!(scope_of(&session.current()), (true, false, false));

    let Some(admin) = &users.admin else { return };
    let theirs = Session::connect(admin).await.unwrap().current().secret().clone();
    let session = Session::resume(&users.plain, &theirs).await.unwrap();
    assert_ne!(session.current().secret(), &theirs);
    assert_ne!(session.current().user, Session::connect(admin).await.unwrap().current().user);
}

pub(crate) async fn callers_whose_token_was_revoked_share_one_login(users: &Users) {
    let session = Session::connect(&users.plain).await.unwrap();
    if lives_for_seconds(&session) {
        return;
    }
    let glance = Glance::connect(&session).await.unwrap();
    let before = session.current().secret().clone();
    session.revoke().await.unwrap();
    let calls = (0..8).map(|_| {
        let (glance, session) = (glance.clone(), session.clone());
        tokio::spawn(async move {
            glance.call(list(&ListQuery::new().with_limit(1))).await.unwrap();
            session.current().secret().clone()
        })
    });
    let mut seen = Vec::new();
    for call in futures_util::future::join_all(calls).await {
        let secret = call.unwrap();
        assert_ne!(secret, before);
        seen.push(secret);
    }
    assert!(seen.iter().all(|secret| secret == &seen[0]), "there were several logins");
}

pub(crate) async fn the_catalogue_is_asked_by_alias_interface_and_region(users: &Users) {
    let session = Session::connect(&users.plain).await.unwrap();
    let image = session.endpoint(&EndpointQuery::new("image")).unwrap();
    let alias = EndpointQuery::new("no-such-type").with_alias("image");
    assert_eq!(session.endpoint(&alias).unwrap(), image);
    // The name that people use for the service leads to its type.
    assert_eq!(session.endpoint(&EndpointQuery::new("glance")).unwrap(), image);
    for interface in [Interface::Public, Interface::Internal, Interface::Admin] {
        let query = EndpointQuery::new("image").with_interfaces([interface]);
        match session.endpoint(&query) {
            Ok(url) => assert!(url.host().is_some()),
            Err(error) => assert!(error.to_string().contains("it has"), "{error}"),
        }
    }
    let region = session
        .catalog()
        .services
        .iter()
        .find(|one| one.service_type == "image")
        .unwrap()
        .endpoints[0]
        .region()
        .unwrap()
        .to_owned();
    assert_eq!(session.endpoint(&EndpointQuery::new("image").with_region(region)).unwrap(), image);

    let mut config = users.plain.clone();
    config.endpoint_overrides.insert("image".to_owned(), image.join("/elsewhere").unwrap());
    let session = Session::connect(&config).await.unwrap();
    assert_eq!(session.endpoint(&EndpointQuery::new("image")).unwrap().path(), "/elsewhere");
}

/// For clouds whose tokens live for seconds.
pub(crate) async fn a_polling_loop_outlives_its_tokens(users: &Users) {
    let session = Session::connect(&users.plain).await.unwrap();
    let life = session.current().lifetime();
    if life > Duration::from_secs(10) {
        eprintln!("skipped: the tokens of this cloud live for {life:?}");
        return;
    }
    let glance = Glance::connect(&session).await.unwrap();
    let (start, mut tokens, mut calls) = (Instant::now(), BTreeSet::new(), 0);
    while start.elapsed() < life * 4 {
        glance.call(list(&ListQuery::new().with_limit(1))).await.unwrap();
        tokens.insert(session.current().secret().expose().to_owned());
        calls += 1;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    eprintln!("{calls} calls with {} tokens that live for {life:?}", tokens.len());
    assert!(tokens.len() > 2, "four lifetimes passed with {} tokens", tokens.len());
    assert!(tokens.len() < calls, "each call caused a login");
}

pub(crate) async fn errors_hold_no_secret(users: &Users) {
    let mut wrong = users.plain.clone();
    let Auth::Password { user, .. } = &users.plain.auth else { panic!("a password is needed") };
    wrong.auth = Auth::Password { user: user.clone(), password: "s3cret-s3cret".into() };
    let error = Session::connect(&wrong).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(error.to_string().contains("check user, password, project"), "{error}");
    wrong.auth = Auth::Token("s3cret-s3cret".into());
    let other = Session::connect(&wrong).await.unwrap_err();
    assert!(matches!(other.kind(), ErrorKind::Unauthorized | ErrorKind::NotFound), "{other}");
    assert!(!format!("{error} {error:?} {other} {other:?} {wrong:?}").contains("s3cret-s3cret"));
}

use super::*;
use crate::ErrorKind;
use crate::keystone::{Auth, Domain, Interface, Principal, Scope};
use std::time::Duration;

const PLAIN: &str = "
clouds:
  one: &one
    auth:
      auth_url: http://127.0.0.1:5000/v3
      username: demo
      password: pässword
      project_name: 123
      user_domain_name: Users
      project_domain_id: projects
    region_name: RegionOne
    interface: internal
";

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn load(
    files: &[(&str, &str)],
    variables: &[(&str, &str)],
    name: Option<&str>,
) -> Result<CloudConfig> {
    let folder = folder(files);
    Environment::new(variables.iter().copied()).with_folder(folder.path()).load(name)
}

fn named(name: &str, domain: Domain) -> Principal {
    Principal::named(name, domain)
}

fn refusal(files: &[(&str, &str)], variables: &[(&str, &str)], name: Option<&str>) -> String {
    let error = load(files, variables, name).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    error.to_string()
}

/// One cloud with this text below its name.
fn cloud(entry: &str) -> Result<CloudConfig> {
    let text = format!(
        "clouds:\n  c:\n{}",
        entry.lines().map(|line| format!("    {line}\n")).collect::<String>()
    );
    load(&[("clouds.yaml", &text)], &[], None)
}

#[test]
fn the_only_cloud_needs_no_name() {
    let config = load(&[("clouds.yaml", PLAIN)], &[], None).unwrap();
    assert_eq!(config.auth_url.as_str(), "http://127.0.0.1:5000/v3");
    let Auth::Password { user, password } = &config.auth else { panic!() };
    assert_eq!(*user, named("demo", Domain::Name("Users".into())));
    assert_eq!(password.expose(), "pässword");
    assert_eq!(config.scope, Scope::Project(named("123", Domain::Id("projects".into()))));
    assert_eq!(
        (config.region.as_deref(), config.interfaces),
        (Some("RegionOne"), vec![Interface::Internal])
    );
}

#[test]
fn names_choose_and_are_told() {
    let two =
        format!("{PLAIN}  two:\n    auth: {{auth_url: 'http://h', username: u, password: p}}\n");
    let files = [("clouds.yaml", two.as_str())];
    assert!(refusal(&files, &[], None).contains("set OS_CLOUD to one of one, two"));
    assert_eq!(load(&files, &[("OS_CLOUD", "two")], None).unwrap().auth_url.as_str(), "http://h/");
    assert_eq!(
        load(&files, &[("OS_CLOUD", "two")], Some("one")).unwrap().auth_url.port(),
        Some(5000)
    );
    assert!(refusal(&files, &[], Some("three")).contains("no cloud \"three\""));
    let other = load(&files, &[("OS_REGION_NAME", "R2")], Some("one")).unwrap();
    assert_eq!(other.region.as_deref(), Some("R2"));
    assert!(refusal(&[], &[], Some("x")).contains("no clouds.yaml is in"));
    assert!(refusal(&[], &[], None).contains("set OS_CLOUD, or OS_AUTH_URL"));
}

#[test]
fn files_are_searched_in_order_and_secrets_laid_over() {
    let secure = "clouds:\n  one:\n    auth:\n      password: from-secure\n";
    let config = load(&[("clouds.yml", PLAIN), ("secure.yaml", secure)], &[], None).unwrap();
    assert_eq!(config.auth.secret().expose(), "from-secure");
    assert_eq!(config.scope, Scope::Project(named("123", Domain::Id("projects".into()))));

    let json = r#"{"clouds": {"j": {"auth": {"auth_url": "http://json", "username": "u", "password": "p"}}}}"#;
    assert_eq!(
        load(&[("clouds.json", json)], &[], None).unwrap().auth_url.host_str(),
        Some("json")
    );

    let elsewhere = folder(&[("mine.yaml", PLAIN), ("s.yaml", secure)]);
    let path = |name: &str| elsewhere.path().join(name).display().to_string();
    let variables =
        [("OS_CLIENT_CONFIG_FILE", path("mine.yaml")), ("OS_CLIENT_SECURE_FILE", path("s.yaml"))];
    let config = Environment::new(variables).load(Some("one")).unwrap();
    assert_eq!(config.auth.secret().expose(), "from-secure");
    let missing =
        Environment::new([("OS_CLIENT_CONFIG_FILE", path("none.yaml"))]).load(None).unwrap_err();
    assert!(missing.to_string().contains("does not exist"), "{missing}");
}

#[test]
fn variables_make_a_cloud_of_their_own() {
    let variables = [
        ("OS_AUTH_URL", "https://h:5000/v2.0"),
        ("OS_USERNAME", "demo"),
        ("OS_PASSWORD", "pw"),
        ("OS_TENANT_NAME", "demo"),
        ("OS_DEFAULT_DOMAIN", "d1"),
        ("OS_REGION_NAME", "R"),
        ("OS_ENDPOINT_TYPE", "internalURL"),
        ("OS_IMAGE_ENDPOINT_OVERRIDE", "http://image/v2"),
        ("OS_CACERT", "/ca.pem"),
        ("OS_INSECURE", "true"),
        ("OS_EMPTY", ""),
        ("OS_LOGFILE", "x"),
    ];
    let config = load(&[("clouds.yaml", PLAIN)], &variables, None).unwrap();
    assert_eq!(config.scope, Scope::Project(named("demo", Domain::Id("d1".into()))));
    assert_eq!(config.interfaces, [Interface::Internal]);
    assert_eq!(config.endpoint_overrides["image"].as_str(), "http://image/v2");
    assert!(config.tls.danger_accept_any);
    assert_eq!(config.tls.ca_file.as_deref(), Some(Path::new("/ca.pem")));
    // A named cloud is not changed by them.
    let config =
        load(&[("clouds.yaml", PLAIN)], &[&variables[..], &[("OS_CLOUD", "one")]].concat(), None)
            .unwrap();
    assert_eq!(config.auth.secret().expose(), "pässword");
    assert!(!config.tls.danger_accept_any);
    // They can be named, too.
    let config = load(
        &[("clouds.yaml", PLAIN)],
        &[&variables[..], &[("OS_CLOUD", "envvars")]].concat(),
        None,
    );
    assert_eq!(config.unwrap().auth.secret().expose(), "pw");
    let error = refusal(&[("clouds.yaml", PLAIN)], &[("OS_CLOUD", "envvars")], None);
    assert!(error.contains("OS_AUTH_URL is missing"), "{error}");
    let error = refusal(&[], &[("OS_AUTH_URL", "http://h"), ("OS_USERNAME", "u")], None);
    assert!(error.contains("OS_PASSWORD is missing"), "{error}");
    let error = refusal(&[], &[("OS_AUTH_URL", "http://h"), ("OS_PASSWORD", "p")], None);
    assert!(error.contains("OS_USERNAME (or OS_USER_ID) is missing"), "{error}");
    assert!(
        !format!("{:?}", CloudConfig::builder("http://u:hunter2@h")).contains("hunter2"),
        "a URL that is refused later is not printed before"
    );
}

#[test]
fn every_way_to_log_in() {
    let config = cloud("auth_type: v3applicationcredential\nauth: {auth_url: 'http://h', application_credential_id: i, application_credential_secret: s}").unwrap();
    assert!(matches!(&config.auth, Auth::ApplicationCredential { id, .. } if id == "i"));
    assert_eq!(config.scope, Scope::Unspecified);
    let config = cloud("auth: {auth_url: 'http://h', application_credential_name: n, application_credential_secret: s, username: u, user_domain_id: d}").unwrap();
    let Auth::NamedApplicationCredential { name, user, .. } = &config.auth else { panic!() };
    assert_eq!((name.as_str(), user), ("n", &named("u", Domain::Id("d".into()))));
    let config =
        cloud("auth_type: token\nauth: {auth_url: 'http://h', token: t, project_id: p}").unwrap();
    assert!(matches!(config.auth, Auth::Token(_)));
    assert_eq!(config.scope, Scope::Project(Principal::id("p")));

    let error = |entry: &str| cloud(entry).unwrap_err().to_string();
    let both = "auth: {auth_url: 'http://h', application_credential_id: i, application_credential_secret: s, project_name: p}";
    assert!(error(both).contains("cannot be used with a scope"));
    assert!(
        error("auth_type: v3oidcpassword\nauth: {auth_url: 'http://h'}")
            .contains("is not supported")
    );
    assert!(error("auth: {auth_url: 'http://h', application_credential_name: n, application_credential_secret: s}").contains("needs its user"));
    assert!(
        error("auth: {auth_url: 'http://h', username: u, password: ''}")
            .contains("password is missing")
    );
    assert!(error("auth: {username: u, password: p}").contains("auth_url is missing"));
    assert!(
        error("auth: {auth_url: 'http://u:pw@h', username: u, password: p}")
            .contains("must not hold")
    );
    assert!(
        error("auth: {auth_url: 'ftp://h', username: u, password: p}").contains("http or https")
    );
    assert!(
        error("profile: vexxhost\nauth: {username: u, password: p}")
            .contains("\"vexxhost\" is in no clouds-public.yaml")
    );
}

#[test]
fn every_scope() {
    let scope = |more: &str| {
        cloud(&format!("auth: {{auth_url: 'http://h', user_id: u, password: p{more}}}"))
            .unwrap()
            .scope
    };
    assert_eq!(scope(""), Scope::Unspecified);
    assert_eq!(scope(", system_scope: all"), Scope::System);
    assert_eq!(scope(", domain_id: d"), Scope::Domain(Domain::Id("d".into())));
    assert_eq!(scope(", domain_name: d"), Scope::Domain(Domain::Name("d".into())));
    assert_eq!(
        scope(", project_name: x"),
        Scope::Project(named("x", Domain::Id("default".into())))
    );
    assert_eq!(scope(", tenant_id: x"), Scope::Project(Principal::id("x")));
    assert_eq!(scope(", trust_id: t"), Scope::Trust("t".into()));
    let entry = "unscoped: true\nauth: {auth_url: 'http://h', user_id: u, password: p}";
    assert_eq!(cloud(entry).unwrap().scope, Scope::Unscoped);
}

#[test]
fn settings_beside_the_login() {
    let config = cloud(
        "auth: {auth_url: 'http://h', user_id: u, password: p}\nverify: false\ncert: /c\nkey: /k\nregions: [{name: r1}]\n\
         interface: [internal, public]\nimage_endpoint_override: http://i\nblock_storage_interface: admin\n\
         image_service_type: imagev2\napi_timeout: 2.5",
    )
    .unwrap();
    assert!(
        config.tls.danger_accept_any
            && config.tls.client_cert.is_some()
            && config.tls.client_key.is_some()
    );
    assert_eq!(config.region.as_deref(), Some("r1"));
    assert_eq!(config.interfaces, [Interface::Internal, Interface::Public]);
    assert_eq!(config.service_interfaces["block-storage"], [Interface::Admin]);
    assert_eq!(config.service_types["image"], "imagev2");
    assert_eq!(config.timeout, Duration::from_millis(2500));

    let error = |more: &str| {
        cloud(&format!("auth: {{auth_url: 'http://h', user_id: u, password: p}}\n{more}"))
            .unwrap_err()
            .to_string()
    };
    assert!(error("regions: [a, b]").contains("set region_name (OS_REGION_NAME) to one of a, b"));
    assert!(error("verify: maybe").contains("must be true or false"));
    assert!(error("interface: private").contains("none of public"));
    assert!(error("api_timeout: -1").contains("number of seconds"));
    assert!(
        error("image_endpoint_override: nowhere").contains("image_endpoint_override is not a URL")
    );
}

#[test]
fn broken_files_are_told_without_their_content() {
    let text = "clouds:\n  one:\n    auth:\n      password: 'hunter2\n  [";
    let error = load(&[("clouds.yaml", text)], &[], None).unwrap_err();
    assert!(error.to_string().contains("not valid YAML at line"), "{error}");
    assert!(!format!("{error:?}").contains("hunter2"));
    assert!(refusal(&[("clouds.yaml", "")], &[], Some("x")).contains("no cloud \"x\""));
    assert!(
        refusal(&[("clouds.yaml", "---\n# none\n")], &[], None).contains("there are no clouds in")
    );
    assert!(refusal(&[("clouds.yaml", "clouds: [1]")], &[], Some("x")).contains("no cloud \"x\""));
    let error = refusal(&[("clouds.yaml", "clouds: {x: 1}")], &[], Some("x"));
    assert!(error.contains("cloud \"x\" in") && error.contains("has no settings"), "{error}");
    let environment = Environment::new([("OS_PASSWORD", "hunter2")]);
    assert!(!format!("{environment:?}").contains("hunter2"));
}

#[test]
fn unquoted_text_stays_what_it_is() {
    for word in [
        "0123",
        "n",
        "no",
        "1e3",
        "0x10",
        "1_000",
        "3.10",
        "true",
        "12345678901234567890123",
        "'0123'",
    ] {
        let auth = format!("auth: &a {{auth_url: 'http://h', username: {word}, password: {word}}}");
        let config = cloud(&format!("{auth}\nregion_name: no\nverify: no")).unwrap();
        let Auth::Password { user: Principal::Named { name, .. }, password } = &config.auth else {
            panic!()
        };
        let word = word.trim_matches('\'');
        assert_eq!((name.as_str(), password.expose()), (word, word));
        assert_eq!((config.region.as_deref(), config.tls.danger_accept_any), (Some("no"), true));
    }
}

#[test]
fn one_odd_cloud_does_not_change_the_texts_of_the_others() {
    let file = "clouds:\n  none:\n  empty:\n    auth:\n  one:\n    auth: {auth_url: 'http://h', username: 0123, password: 007, project_name: 1e3}\n";
    let config = load(&[("clouds.yaml", file)], &[], Some("one")).unwrap();
    assert_eq!(config.auth.secret().expose(), "007");
    assert_eq!(config.scope, Scope::Project(named("1e3", Domain::default())));
    let error = refusal(&[("clouds.yaml", file)], &[], Some("none"));
    assert!(error.contains("\"none\" in") && error.contains("has no settings"), "{error}");
    let error = refusal(&[("clouds.yaml", "")], &[], Some("x"));
    assert!(error.ends_with("it has none"), "{error}");
}

#[test]
fn texts_are_kept_wherever_they_stand_and_whatever_stands_beside_them() {
    let file = "
clouds:
  odd:
    auth: {methods: [v3password, 1], nested: {a: 1}, 1: 1}
  list: [1]
  beside:
    auth: {auth_url: 'http://h'}
    username: 0123
    password: 007
    project_id: 0456
    region_name: 010
    api_timeout: 2.5
    verify: false
  regions:
    regions: [{name: 010, values: {auth: {password: 1e3}}}]
    auth: &auth {auth_url: 'http://h', username: 1_0, password: 1}
  merged:
    auth: {<<: *auth, password: 0x10}
";
    let files = [("clouds.yaml", file)];
    let config = load(&files, &[], Some("beside")).unwrap();
    assert_eq!(config.auth.secret().expose(), "007");
    assert_eq!(config.scope, Scope::Project(Principal::id("0456")));
    assert_eq!(config.region.as_deref(), Some("010"));
    assert_eq!((config.timeout, config.tls.danger_accept_any), (Duration::from_millis(2500), true));
    let config = load(&files, &[], Some("regions")).unwrap();
    assert_eq!((config.region.as_deref(), config.auth.secret().expose()), (Some("010"), "1e3"));
    let config = load(&files, &[], Some("merged")).unwrap();
    let Auth::Password { user, password } = &config.auth else { panic!() };
    assert_eq!((user, password.expose()), (&named("1_0", Domain::default()), "0x10"));
    // The files that are laid over and below it are read the same way.
    let files = [
        ("clouds.yaml", "clouds: {c: {profile: p, auth: {username: 01}}}"),
        ("secure.yaml", "clouds: {c: {auth: {password: 02}}}"),
        (
            "clouds-public.yaml",
            "public-clouds: {p: {auth: {auth_url: 'http://h', project_id: 03}}}",
        ),
    ];
    let config = load(&files, &[], None).unwrap();
    assert_eq!(config.auth.secret().expose(), "02");
    assert_eq!(config.scope, Scope::Project(Principal::id("03")));
}

#[test]
fn a_profile_of_the_public_clouds_is_laid_below() {
    let public = "
public-clouds:
  acme:
    auth: {auth_url: 'https://acme.example/v3', user_domain_name: Acme}
    interface: internal
    regions:
      - name: north
      - name: south
        values: {auth: {auth_url: 'https://south.acme.example/v3'}, image_endpoint_override: 'https://images.south'}
";
    let clouds = "
clouds:
  own: {profile: acme, region_name: north, auth: {username: u, password: p, project_name: x}}
  old: {cloud: acme, interface: public, region_name: south, auth: {username: u, password: p}}
  other: {profile: acme, auth: {username: u, password: p}}
  lost: {profile: nobody, auth: {username: u, password: p}}
  known: {profile: nobody, auth: {auth_url: 'http://h', username: u, password: p}}
";
    let files = [("clouds.yaml", clouds), ("clouds-public.yaml", public)];
    let own = load(&files, &[], Some("own")).unwrap();
    assert_eq!(own.auth_url.as_str(), "https://acme.example/v3");
    assert_eq!(own.interfaces, [Interface::Internal]);
    let Auth::Password { user, .. } = &own.auth else { panic!() };
    assert_eq!(*user, named("u", Domain::Name("Acme".into())));

    let old = load(&files, &[], Some("old")).unwrap();
    assert_eq!(old.interfaces, [Interface::Public], "the cloud's own word counts");
    assert_eq!(old.auth_url.as_str(), "https://south.acme.example/v3");
    assert_eq!(old.endpoint_overrides["image"].as_str(), "https://images.south/");

    assert!(refusal(&files, &[], Some("other")).contains("one of north, south"));
    let chosen = load(&files, &[("OS_REGION_NAME", "south")], Some("other")).unwrap();
    assert_eq!(chosen.auth_url.host_str(), Some("south.acme.example"));
    assert!(refusal(&files, &[], Some("lost")).contains("\"nobody\" is in no clouds-public.yaml"));
    assert_eq!(load(&files, &[], Some("known")).unwrap().auth_url.as_str(), "http://h/");
}

#[test]
fn the_home_is_found_in_paths() {
    let config = cloud(
        "auth: {auth_url: 'http://h', username: u, password: p}\ncacert: ~/ca.pem\ncert: /abs.pem\nkey: ~odd",
    );
    let tls = config.unwrap().tls;
    assert_eq!(tls.ca_file, std::env::home_dir().map(|home| home.join("ca.pem")));
    assert_eq!(tls.client_cert.unwrap(), std::path::Path::new("/abs.pem"));
    assert_eq!(tls.client_key.unwrap(), std::path::Path::new("~odd"));
}

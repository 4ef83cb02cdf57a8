//! Uploads with a ticket.

use sha2::{Digest, Sha256};

use crate::client::{Session, Ticket, raw, vhd};

#[tokio::test]
async fn a_ticket_is_good_for_one_upload() {
    let session = Session::open().await;
    let ticket = session.ticket(&[]).await;
    assert!(ticket.url.ends_with(&ticket.id));
    assert_ne!(ticket.authority(), session.authority(), "another server takes the data");
    let row = session.rows(&ticket.id).await.remove(0);
    assert_eq!(row["status"], "NotUploaded");
    assert_eq!(row["downloaddetails"][0]["downloadState"], "NOT_UPLOADED");
    assert!(session.cloud.template_path(&ticket.id).is_none());
    let answer = ticket.send("web01.VHD", &vhd()).await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "upload successful."));
    let row = session.rows(&ticket.id).await.remove(0);
    assert_eq!((&row["isready"], &row["status"]), (&true.into(), &"Download Complete".into()));
    assert_eq!((&row["size"], &row["physicalsize"]), (&(64 << 20).into(), &vhd().len().into()));
    let path = session.cloud.template_path(&ticket.id).unwrap();
    assert!(std::fs::read(&path).unwrap() == vhd());
    assert_eq!(ticket.send("web01.vhd", &vhd()).await.unwrap().status, 400);
    assert_eq!(session.download_state(&ticket.id).await, "DOWNLOADED", "no harm was done");
    let answer = session.post("deleteTemplate", &[("id", &ticket.id)]).await.unwrap();
    assert_eq!(session.job(&answer).await["jobstatus"], 1);
    assert!(!path.exists());
}

#[tokio::test]
async fn what_makes_a_ticket_invalid() {
    let session = Session::open().await;
    let good = session.ticket(&[]).await;
    type Spoil = fn(&mut Ticket);
    let cases: [(&str, Spoil); 4] = [
        ("signature validation failed.", |t| t.signature = "AAAA".to_owned()),
        ("signature validation failed.", |t| t.metadata.push('A')),
        ("signature validation failed.", |t| t.expires = t.expires.replace("+00:00", "-01:00")),
        ("signature, metadata and expires are compulsory fields.", |t| t.signature.clear()),
    ];
    for (text, spoil) in cases {
        let mut ticket = good.clone();
        spoil(&mut ticket);
        let answer = ticket.send("a.vhd", &vhd()).await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (400, text));
        assert_eq!(session.download_state(&good.id).await, "UPLOAD_ERROR");
    }
    // The signed URL has the host to which the ticket points.
    let body = Ticket::body("a.vhd", &vhd());
    let other = good.authority().replace("127.0.0.1", "localhost");
    let head = good.head(body.len() as u64).replace(good.authority(), &other);
    let answer = raw(good.authority(), &[head.as_bytes(), b"\r\n", &body].concat()).await.unwrap();
    assert_eq!(answer.text(), "signature validation failed.");
    // Without a length there is no upload at all.
    let head = good.head(0).replace("content-length: 0", "transfer-encoding: chunked");
    let answer = raw(good.authority(), format!("{head}\r\n0\r\n\r\n").as_bytes()).await.unwrap();
    assert_eq!(answer.status, 400);
    assert!(answer.text().starts_with("content length is not set"), "{}", answer.text());
    let get = format!("GET /upload/{} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", good.id);
    assert_eq!(raw(good.authority(), get.as_bytes()).await.unwrap().status, 400);
}

#[tokio::test]
async fn ticket_ttl() {
    let session = Session::open().await;
    session.fault("ticket-ttl=0");
    let ticket = session.ticket(&[]).await;
    let answer = ticket.send("a.vhd", &vhd()).await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (400, "request not valid anymore."));
}

#[tokio::test]
async fn contents_and_names_have_to_match() {
    let session = Session::open().await;
    // A fixed image has its mark at the end, where nobody looks.
    let fixed = [vec![0; 4096], vhd()[..512].to_vec()].concat();
    for (name, data) in [("a.vhd", fixed), ("a.vhd.gz", vhd()), ("a.raw", vhd()), ("a", vhd())] {
        let ticket = session.ticket(&[]).await;
        let answer = ticket.send(name, &data).await.unwrap();
        assert_eq!(answer.status, 400, "{name}");
        assert!(answer.text().starts_with("File type mismatch"), "{}", answer.text());
        let row = session.rows(&ticket.id).await.remove(0);
        assert_eq!(row["downloaddetails"][0]["downloadState"], "UPLOAD_ERROR");
        assert!(row["status"].as_str().unwrap().starts_with("File type mismatch"), "{row}");
        assert_eq!(ticket.send("a.vhd", &vhd()).await.unwrap().status, 400, "the ticket is used");
    }
}

#[tokio::test]
async fn a_checksum_is_checked() {
    let session = Session::open().await;
    let sum = format!("{{SHA-256}}{}", hex::encode(Sha256::digest(vhd())));
    let ticket = session.ticket(&[("checksum", &sum)]).await;
    assert_eq!(ticket.send("a.vhd", &vhd()).await.unwrap().status, 200);
    let ticket = session.ticket(&[("checksum", "{SHA-256}00")]).await;
    let answer = ticket.send("a.vhd", &vhd()).await.unwrap();
    assert_eq!(answer.status, 500);
    assert!(answer.text().starts_with("Checksum mismatch"), "{}", answer.text());
    assert_eq!(session.download_state(&ticket.id).await, "UPLOAD_ERROR");
}

#[tokio::test]
async fn a_form_without_a_file_and_a_body_that_ends_early() {
    let session = Session::open().await;
    let ticket = session.ticket(&[]).await;
    let body = b"--xx\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nb\r\n--xx--\r\n";
    let request = [ticket.head(body.len() as u64).as_bytes(), b"\r\n", body].concat();
    let answer = raw(ticket.authority(), &request).await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (422, "received entity is not a file"));

    let ticket = session.ticket(&[]).await;
    let request =
        [ticket.head(1 << 30).as_bytes(), b"\r\n", &Ticket::body("a.vhd", &vhd())].concat();
    {
        use tokio::io::AsyncWriteExt;
        let mut stream = tokio::net::TcpStream::connect(ticket.authority()).await.unwrap();
        stream.write_all(&request).await.unwrap();
        session.until(&ticket.id, |rows| rows[0]["status"] == "UploadInProgress").await;
    }
    let rows = session
        .until(&ticket.id, |rows| rows[0]["downloaddetails"][0]["downloadState"] == "UPLOAD_ERROR")
        .await;
    assert_eq!(rows[0]["status"], "file receive failed or connection closed prematurely.");
    assert!(session.cloud.template_path(&ticket.id).is_none());
}

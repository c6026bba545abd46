use std::io::Write as _;

use super::*;

fn text(bytes: &[u8]) -> String {
    let mut body = Body::from(bytes.to_vec());
    body.text().expect("a text").to_owned()
}

#[test]
fn text_skips_byte_order_mark() {
    assert_eq!(text(b"\xef\xbb\xbf{}"), "{}");
}

#[test]
fn invalid_text_is_replaced_per_character() {
    for (bytes, expected) in [
        (&b""[..], ""),
        (b"{\"a\":\"\xff\"}", "{\"a\":\"\u{fffd}\"}"),
        (
            b"{\"a\":\"\xf0\x9f\x9a\",\"\xed\xa0\xbd\":1}",
            "{\"a\":\"\u{fffd}\",\"\u{fffd}\u{fffd}\u{fffd}\":1}",
        ),
        (
            b"{\n\t\"a\\\"\n\":\"\x00\\\\\"\r\n}",
            "{\n\t\"a\\\" \":\" \\\\\"\r\n}",
        ),
        ("{\"é\":\"😀\"}".as_bytes(), "{\"é\":\"😀\"}"),
    ] {
        assert_eq!(text(bytes), expected);
    }
}

#[test]
fn repaired_text_is_bounded() {
    let text = Body::from(vec![0xff; MAX_BODY_BYTES / 2])
        .text()
        .map(str::len);
    assert_eq!(text, Err(too_large_error(MAX_BODY_BYTES)));
}

fn gzip(bytes: &[u8]) -> Body {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("written to memory");
    encoder.finish().expect("written to memory").into()
}

#[tokio::test]
async fn gunzip_enforces_the_size_limit() {
    for length in [0, 1, 64 << 10, (64 << 10) + 1, 600 << 10] {
        let body = gzip(&vec![b'x'; length]).gunzip(600 << 10, false).await;
        assert_eq!(body.expect("a complete body").len(), length);
    }
    let long = || gzip(&vec![b'x'; (600 << 10) + 1]);
    let error = long().gunzip(600 << 10, false).await.err();
    assert_eq!(error, Some(too_large_error(600 << 10)));
    let truncated = long().gunzip(600 << 10, true).await.expect("truncated");
    assert_eq!(truncated.len(), 600 << 10);
    let invalid = Body::from(b"no gzip at all".to_vec())
        .gunzip(100, false)
        .await;
    assert!(matches!(invalid.err(), Some(ErrorKind::InvalidResponse(_))));
    let half = Body::from(gzip(b"some text").get(..12).unwrap_or_default().to_vec());
    let truncated = half.gunzip(100, false).await;
    assert!(matches!(truncated.err(), Some(ErrorKind::Connection(_))));
    let empty = Body::default().gunzip(100, false).await.expect("empty");
    assert!(empty.is_empty());
}

/// No other test of this process acquires the exclusive permit, so the number of permits is predictable.
#[tokio::test]
async fn large_bodies_are_serialized_and_small_ones_are_concurrent() {
    async fn filled(bytes: usize) -> Body {
        let mut body = Body::default();
        let chunk = vec![b'x'; bytes];
        assert!(body.append(&chunk, MAX_BODY_BYTES).await);
        body
    }
    let large = filled(MAX_SHARED_BYTES + 1).await;
    let small = filled(1).await;
    let second = tokio::spawn(filled(MAX_SHARED_BYTES + 1));
    tokio::task::yield_now().await;
    assert!(!second.is_finished());
    drop(large);
    drop(second.await.expect("granted once the first is dropped"));
    // A body for which no shared memory is free waits for the exclusive permit.
    let mut others = Vec::new();
    while SHARED_MEMORY.available_permits() >= MAX_SHARED_BYTES / RESERVATION_UNIT {
        others.push(filled(MAX_SHARED_BYTES).await);
    }
    assert!(others.len() * MAX_SHARED_BYTES <= TOTAL_SHARED_BYTES);
    let exclusive = filled(MAX_SHARED_BYTES).await;
    assert!(exclusive.reservation.exclusive.is_some());
    drop((small, others, exclusive));
    let mut body = filled(10).await;
    assert!(!body.append(&[0; 10], 19).await);
}

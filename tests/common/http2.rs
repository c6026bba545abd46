//! HTTP/2 frames of a client without a flow-control window for responses, as bytes, so that a thousand connections are
//! cheap.

/// Returns the frames that open a connection with a flow-control window of 0 and request `path` on the first stream.
pub fn zero_window_request(path: &str, authority: &str) -> Vec<u8> {
    // SETTINGS_INITIAL_WINDOW_SIZE is 0.
    let settings = [0, 4, 0, 0, 0, 0];
    // GET and https are from the static table, followed by two literals with names from that table.
    let mut fields = vec![0x82, 0x87];
    for (name, value) in [(0x04, path), (0x01, authority)] {
        let length = u8::try_from(value.len()).unwrap();
        assert!(length < 127, "one byte of length");
        fields.extend([name, length]);
        fields.extend_from_slice(value.as_bytes());
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &settings));
    // The flags are END_STREAM and END_HEADERS.
    bytes.extend(frame(1, 0x5, 1, &fields));
    bytes
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

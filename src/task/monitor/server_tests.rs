use super::*;

fn start(monitor: &Monitor) -> MetricsServer {
    MetricsServer::start(monitor, "127.0.0.1:0".parse().unwrap(), Reach::Loopback).unwrap()
}

fn connect(server: &MetricsServer) -> TcpStream {
    let stream = TcpStream::connect(server.address()).unwrap();
    // Only detects a hang.
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// The answer to a request that is sent in pieces of this size.
fn asked(server: &MetricsServer, request: &[u8], piece: usize) -> String {
    let mut stream = connect(server);
    for piece in request.chunks(piece) {
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn what_is_there_is_found_and_nothing_else() {
    let server = start(&Monitor::new(2));
    let asked = |request: &str| asked(&server, format!("{request}\r\n\r\n").as_bytes(), 7);
    let metrics = asked("GET /metrics HTTP/1.1\r\nHost: a");
    let (head, body) = metrics.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
    assert!(body.contains("ringfold_tasks{state=\"waiting\"} 2.0\n"), "{body}");
    let open = asked("GET /metrics?a=b HTTP/1.0\r\naCCept: application/openmetrics-text; version=1.0.0, */*");
    assert!(
        open.contains("Content-Type: application/openmetrics-text") && open.ends_with("# EOF\n"),
        "{open}"
    );
    let head = asked("HEAD /metrics HTTP/1.1");
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(asked("GET / HTTP/1.1").ends_with("are at /metrics\n"));
    assert!(asked("GET /other HTTP/1.1").starts_with("HTTP/1.1 404"));
    assert!(asked("POST /metrics HTTP/1.1").contains("405 Method Not Allowed\r\n"));
}

#[test]
fn what_is_no_request_is_answered_with_what_is_wrong() {
    let server = start(&Monitor::new(1));
    assert!(asked(&server, b"rfcontrl\0\0\0\0\n\n", 100).starts_with("HTTP/1.1 400"));
    assert!(asked(&server, b"\x16\x03\x01\x02\x00\x01\x00", 100).starts_with("HTTP/1.1 400"), "TLS");
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(REQUEST));
    assert!(asked(&server, long.as_bytes(), 1000).starts_with("HTTP/1.1 431"));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(HEADERS + 1));
    assert!(asked(&server, many.as_bytes(), 1000).starts_with("HTTP/1.1 431"));
}

#[test]
fn many_silent_clients_do_not_keep_a_scraper_out() {
    let server = start(&Monitor::new(1));
    let silent: Vec<TcpStream> = (0..3 * CONNECTIONS).map(|_| connect(&server)).collect();
    for stream in &silent[..CONNECTIONS] {
        let _ = (&*stream).write(b"GET /met");
    }
    for _ in 0..10 {
        assert!(asked(&server, b"GET /metrics HTTP/1.1\r\n\r\n", 100).starts_with("HTTP/1.1 200"));
    }
}

#[test]
fn a_client_that_does_not_read_is_let_go_and_so_is_one_that_says_nothing() {
    let server = start(&Monitor::new(20_000));
    let mut deaf = connect(&server);
    deaf.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    let mut silent = connect(&server);
    let start = Instant::now();
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    assert!(start.elapsed() > PATIENCE / 2);
    // What the kernel had taken is there, and then the connection is at its end or broken.
    let mut answer = Vec::new();
    let _ = deaf.read_to_end(&mut answer);
    let whole = exposition(Monitor::new(20_000).snapshot(), Form::Plain).len();
    assert!(answer.len() < whole, "{} of {whole} bytes went to one who did not read", answer.len());
}

#[test]
fn an_address_that_others_reach_has_to_be_asked_for() {
    let monitor = Monitor::new(1);
    for open in ["0.0.0.0:0", "[::]:0"] {
        let address = open.parse().unwrap();
        let error = MetricsServer::start(&monitor, address, Reach::Loopback).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
    drop(MetricsServer::start(&monitor, "0.0.0.0:0".parse().unwrap(), Reach::Anywhere).unwrap());
    let first = start(&monitor);
    let taken = MetricsServer::start(&monitor, first.address(), Reach::Loopback).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::Configuration, "{taken}");
}

#[test]
fn its_end_is_at_once_whoever_is_connected_and_gives_the_port_back() {
    let monitor = Monitor::new(1);
    let server = start(&monitor);
    let address = server.address();
    let mut silent = connect(&server);
    drop(server);
    assert_eq!(silent.read(&mut [0]).unwrap_or(0), 0);
    drop(MetricsServer::start(&monitor, address, Reach::Loopback).unwrap());
}

use super::*;

fn counters(counts: &[(&str, f64)]) -> Counters {
    counts.iter().map(|(key, count)| ((*key).to_owned(), *count)).collect()
}

fn sources(all: &[(&str, &[(&str, f64)])]) -> BTreeMap<String, Counters> {
    all.iter().map(|(name, counts)| ((*name).to_owned(), counters(counts))).collect()
}

fn ratio_of(numerator: &str, denominator: &str) -> Wanted {
    Wanted::Ratio { numerator: Selector::parse(numerator).unwrap(), denominator: Selector::parse(denominator).unwrap() }
}

#[test]
fn a_pod_that_comes_back_is_not_counted_twice() {
    let first = sources(&[("a", &[("d", 100.0)]), ("b", &[("d", 50.0)])]);
    let second = remembered(Some(&first), sources(&[("a", &[("d", 110.0)])]));
    let third = sources(&[("a", &[("d", 120.0)]), ("b", &[("d", 55.0)])]);
    assert_eq!(increase(&second, &third), counters(&[("d", 15.0)]));
    let many = (0..200).map(|pod| (pod.to_string(), counters(&[("d", 1.0)]))).collect();
    assert_eq!(remembered(Some(&many), third.clone()), third, "but not for ever");
}

#[test]
fn a_counter_that_has_not_counted_yet_is_zero_only_where_its_name_is_known() {
    let text = "http_requests_total{code=\"200\"} 7\n";
    let find = |numerator: &str| ratio_of(numerator, "http_requests_total").find(text, false).unwrap();
    assert_eq!(find("http_requests_total{code=~\"5..\"}"), counters(&[(NUMERATOR, 0.0), (DENOMINATOR, 7.0)]));
    assert_eq!(find("http_errors_total"), counters(&[(DENOMINATOR, 7.0)]));
}

#[test]
fn what_cannot_be_trusted_is_an_error() {
    let wanted = ratio_of("x{code=\"5\"}", "x");
    for (text, open, kind, message) in [
        ("x 1\ny{\n", false, ErrorKind::Malformed, "line 2: "),
        ("# TYPE x gauge\nx 1\n", false, ErrorKind::Malformed, "x is a gauge: a ratio needs counters"),
        ("x NaN\n", false, ErrorKind::Malformed, "x is NaN"),
        ("x 1\n", true, ErrorKind::Partial, "it does not end with # EOF"),
    ] {
        let error = wanted.find(text, open).unwrap_err();
        assert_eq!((error.kind, error.message.contains(message)), (kind, true), "{error}");
    }
    let buckets = Wanted::Buckets { histogram: Selector::parse("h").unwrap(), bucket: "h_bucket".into() };
    assert!(buckets.find("h_bucket 1\n", false).unwrap_err().message.contains("no label le"));
    let many: String = (0..=MOST_BUCKETS).map(|le| format!("h_bucket{{le=\"{le}\"}} 1\n")).collect();
    assert!(buckets.find(&many, false).unwrap_err().message.contains("more than 200 buckets"));
}

#[test]
fn a_process_with_two_addresses_counts_once() {
    let addresses = |all: &[&str]| all.iter().map(|address| address.parse().unwrap()).collect::<Vec<IpAddr>>();
    assert_eq!(one_family(addresses(&["fd12::1", "10.0.0.2", "10.0.0.1", "10.0.0.2"])), addresses(&["10.0.0.1", "10.0.0.2"]));
    assert_eq!(one_family(addresses(&["fd12::2", "fd12::1"])), addresses(&["fd12::1", "fd12::2"]));
}

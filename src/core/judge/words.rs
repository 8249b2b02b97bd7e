//! Numbers in words.

use crate::core::source::Unit;

/// A number with at most three decimals; with as many as it takes where it would otherwise read like `unlike`, though it is not that.
pub fn number(value: f64, unit: Unit, unlike: &[f64]) -> String {
    let digits = (0..=3).find(|digits| round(value, *digits) == round(value, 3)).unwrap_or(3);
    let clear = (digits..=12).find(|digits| unlike.iter().all(|other| *other == value || round(*other, *digits) != round(value, *digits)));
    let text = match clear {
        _ if !value.is_finite() => value.to_string(),
        _ if value != 0.0 && (value.abs() < 0.001 || value.abs() >= 1e15) => format!("{value:e}"),
        Some(digits) => group(&round(value, digits)),
        None => value.to_string(),
    };
    match unit {
        Unit::None => text,
        Unit::Percent => format!("{text} %"),
        Unit::Milliseconds => format!("{text} ms"),
    }
}

/// Numbers in one line, bounded.
pub fn list(values: &[f64], unit: Unit) -> String {
    const SHOWN: usize = 10;
    let mut text = values.iter().take(SHOWN).map(|value| number(*value, unit, &[])).collect::<Vec<_>>().join(", ");
    if values.len() > SHOWN {
        text.push_str(&format!(", and {} more", values.len() - SHOWN));
    }
    text
}

/// A number of things: `2,310`. Prometheus extrapolates, so it need not be whole.
pub fn count(value: f64) -> String {
    group(&format!("{:.0}", value.round()))
}

fn round(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Puts a comma between groups of three digits before the point.
fn group(text: &str) -> String {
    let (sign, text) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let (whole, decimals) = text.split_once('.').map_or((text, None), |(whole, decimals)| (whole, Some(decimals)));
    let mut grouped = String::from(sign);
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if let Some(decimals) = decimals {
        grouped.push('.');
        grouped.push_str(decimals);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_but_never_mislead() {
        for (value, unlike, text) in [
            (97.4, 99.0, "97.4"),
            (99.0, 99.0, "99"),
            (98.9996, 99.0, "98.9996"),
            (98.99999999, 99.0, "98.99999999"),
            (99.0 - 1e-13, 99.0, "98.9999999999999"),
            (1234567.891, 0.0, "1,234,567.891"),
            (-1234.0, 0.0, "-1,234"),
            (100.0, 0.0, "100"),
            (0.0, 1.0, "0"),
            (0.00001, 1.0, "1e-5"),
            (1e300, 1.0, "1e300"),
            (2.0 / 3.0, 1.0, "0.667"),
        ] {
            assert_eq!(number(value, Unit::None, &[unlike]), text);
        }
        assert_eq!(number(0.5, Unit::Percent, &[]), "0.5 %");
        assert_eq!(number(250.0, Unit::Milliseconds, &[]), "250 ms");
        assert_eq!(count(2309.7), "2,310");
        assert_eq!(list(&[1.0, 2.5], Unit::None), "1, 2.5");
        assert_eq!(list(&[1.0; 12], Unit::None), "1, 1, 1, 1, 1, 1, 1, 1, 1, 1, and 2 more");
    }
}

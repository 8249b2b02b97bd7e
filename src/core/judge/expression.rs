//! `successCondition` and `failureCondition`: CEL, the language of Kubernetes.
//!
//! The interpreter recurses, and a short text can make it recurse deeply (14 nested parentheses need more than 2 MiB in a debug build), so
//! that a user's expression could end the whole process. Each evaluation therefore has a thread of its own, with a stack that is large
//! enough for every expression within the bounds below; a panic ends that thread alone.

use cel::{
    Context, Program, Value,
    common::ast::{EntryExpr, Expr, IdedExpr},
};

use super::{list, not_a_number};
use crate::{
    api::{Metric, Verdict},
    core::source::{Fault, Unit},
};

/// Longest expression, in bytes; the CRD has the same bound.
const MAX_LENGTH: usize = 1024;
/// Deepest nesting of brackets.
const MAX_BRACKETS: usize = 32;
/// Deepest nesting of `all`, `exists`, `map`, `filter`: with the bound on the number of series it bounds the work.
const MAX_LOOPS: usize = 2;
/// Only what is used of it becomes memory.
const STACK: usize = 64 << 20;
/// Names of the values in an expression.
const RESULT: &str = "result";

/// At least one is set.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Conditions {
    success: Option<String>,
    failure: Option<String>,
}

impl Conditions {
    pub fn parse(metric: &Metric) -> Result<Self, Vec<Fault>> {
        let conditions = Self { success: metric.success_condition.clone(), failure: metric.failure_condition.clone() };
        let both = [("successCondition", &conditions.success), ("failureCondition", &conditions.failure)];
        let faults: Vec<_> = both
            .into_iter()
            .filter_map(|(field, text)| text.as_ref().and_then(|text| check(text).err()).map(|message| (field.to_owned(), message)))
            .collect();
        if faults.is_empty() { Ok(conditions) } else { Err(faults) }
    }

    pub fn words(&self) -> String {
        match (&self.success, &self.failure) {
            (Some(success), Some(failure)) => format!("success if {success}, failure if {failure}"),
            (Some(success), None) => format!("success if {success}"),
            (_, failure) => format!("failure if {}", failure.as_deref().unwrap_or("false")),
        }
    }

    pub fn judge(&self, values: &[f64], unit: Unit, requests: &str) -> (Verdict, String) {
        if let Some(message) = not_a_number(values) {
            return (Verdict::NoData, message);
        }
        let is = |text: &Option<String>| text.as_ref().map(|text| holds(text, values)).transpose();
        let (success, failure) = match (is(&self.success), is(&self.failure)) {
            (Ok(success), Ok(failure)) => (success, failure),
            (Err(error), _) => return (Verdict::Inconclusive, format!("successCondition cannot be evaluated: {error}")),
            (_, Err(error)) => return (Verdict::Inconclusive, format!("failureCondition cannot be evaluated: {error}")),
        };
        let value = list(values, unit);
        let (success_text, failure_text) = (self.success.as_deref().unwrap_or_default(), self.failure.as_deref().unwrap_or_default());
        match (success, failure) {
            (_, Some(true)) => (Verdict::Fail, format!("{value} is a failure: {failure_text}{requests}")),
            (Some(true), _) => (Verdict::Pass, format!("{value} is a success: {success_text}{requests}")),
            (Some(false), None) => (Verdict::Fail, format!("{value} is not a success: {success_text}{requests}")),
            (None, Some(false)) => (Verdict::Pass, format!("{value} is not a failure: {failure_text}{requests}")),
            _ => (Verdict::Inconclusive, format!("{value} is neither a success ({success_text}) nor a failure ({failure_text}){requests}")),
        }
    }
}

/// Finds what is wrong with an expression before it is needed: it must compile, know its names, and be true or false for a number or for
/// a list of numbers.
fn check(text: &str) -> Result<(), String> {
    bounded(text)?;
    let text = text.to_owned();
    apart(move || {
        let program = compile(&text)?;
        truth(&program, &[1.0]).or_else(|error| truth(&program, &[1.0; 16]).map_err(|_| error)).map(drop)
    })
}

fn holds(text: &str, values: &[f64]) -> Result<bool, String> {
    bounded(text)?;
    let (text, values) = (text.to_owned(), values.to_vec());
    apart(move || truth(&compile(&text)?, &values))
}

fn bounded(text: &str) -> Result<(), String> {
    if text.len() > MAX_LENGTH {
        return Err(format!("the expression is longer than {MAX_LENGTH} characters"));
    }
    let mut depth = 0_usize;
    for c in text.chars() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_BRACKETS {
            return Err(format!("the expression nests more than {MAX_BRACKETS} brackets"));
        }
    }
    Ok(())
}

/// Runs on a thread with a large stack; a panic becomes an error.
fn apart<T: Send + 'static>(run: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    let thread = std::thread::Builder::new().name("cel".to_owned()).stack_size(STACK).spawn(run);
    let thread = thread.map_err(|error| format!("no thread to evaluate it: {error}"))?;
    thread.join().unwrap_or_else(|_| Err("the expression uses something that is not supported".to_owned()))
}

fn compile(text: &str) -> Result<Program, String> {
    let program = Program::compile(text).map_err(|errors| {
        let first = errors.errors.first();
        let at = first.map(|error| format!(" at character {}", error.pos.1)).unwrap_or_default();
        // What the parser would have liked instead is a list of its own names.
        let why = first.map_or("", |error| error.msg.split(" expecting ").next().unwrap_or_default());
        format!("not a CEL expression{at}: {why}; write one such as result >= 99.0")
    })?;
    known(program.expression(), &mut Vec::new(), 0)?;
    Ok(program)
}

fn truth(program: &Program, values: &[f64]) -> Result<bool, String> {
    let mut context = Context::default();
    let result = match values {
        [value] => Value::Float(*value),
        values => Value::from(values.iter().map(|value| Value::Float(*value)).collect::<Vec<_>>()),
    };
    context.add_variable_from_value(RESULT, result);
    match program.execute(&context) {
        Ok(Value::Bool(truth)) => Ok(truth),
        Ok(other) => Err(format!("it must be true or false, but it is {}", kind(&other))),
        Err(error) => Err(format!(
            "{error} (result is {}; decimals go with decimals: write 2.0, not 2)",
            if values.len() == 1 { "a number" } else { "a list of numbers" }
        )),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Int(_) | Value::UInt(_) | Value::Float(_) => "a number",
        Value::String(_) => "a string",
        Value::List(_) => "a list",
        _ => "something else",
    }
}

/// Walks through the expression: unknown names are refused (a short-circuit would hide them from a trial), loops are bounded.
fn known<'a>(expression: &'a IdedExpr, bound: &mut Vec<&'a str>, loops: usize) -> Result<(), String> {
    match &expression.expr {
        Expr::Ident(name) if name == RESULT || name.starts_with('@') || bound.contains(&name.as_str()) => Ok(()),
        Expr::Ident(name) => Err(format!("unknown name {name:?}: the value is called result")),
        Expr::Call(call) => call.target.iter().map(AsRef::as_ref).chain(&call.args).try_for_each(|part| known(part, bound, loops)),
        Expr::Select(select) => known(&select.operand, bound, loops),
        Expr::List(list) => list.elements.iter().try_for_each(|element| known(element, bound, loops)),
        Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
            EntryExpr::MapEntry(entry) => known(&entry.key, bound, loops).and_then(|()| known(&entry.value, bound, loops)),
            EntryExpr::StructField(field) => known(&field.value, bound, loops),
        }),
        Expr::Struct(message) => Err(format!("messages ({}) are not supported", message.type_name)),
        Expr::Comprehension(comprehension) => {
            if loops == MAX_LOOPS {
                return Err(format!("more than {MAX_LOOPS} loops (all, exists, map, filter) in one another"));
            }
            known(&comprehension.iter_range, bound, loops)?;
            known(&comprehension.accu_init, bound, loops)?;
            let before = bound.len();
            bound.extend([comprehension.iter_var.as_str(), comprehension.accu_var.as_str()]);
            bound.extend(comprehension.iter_var2.as_deref());
            for part in [&comprehension.loop_cond, &comprehension.loop_step, &comprehension.result] {
                known(part, bound, loops + 1)?;
            }
            bound.truncate(before);
            Ok(())
        }
        Expr::Literal(_) | Expr::Unspecified => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn true_or_false_of_a_number_or_of_a_list() {
        for (text, values, expected) in [
            ("result >= 99", &[99.0][..], true),
            ("result >= 99", &[98.9], false),
            ("result > 1 && result < 5.5", &[5.0], true),
            ("result.all(r, r < 0.05)", &[0.01, 0.02], true),
            ("result.all(r, r < 0.05)", &[0.01, 0.2], false),
            ("result[0] / result[1] < 0.5", &[1.0, 4.0], true),
            ("result.filter(r, r > 1.0).size() <= 1", &[1.0, 2.0, 3.0], false),
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
            assert_eq!(holds(text, values), Ok(expected), "{text} {values:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_found_before_it_is_needed() {
        for (text, message) in [
            ("result >", "not a CEL expression at character 9"),
            ("result > 1 || foo", "unknown name \"foo\": the value is called result"),
            ("result.all(r, s > 1.0)", "unknown name \"s\""),
            ("result * 2 > 3", "write 2.0, not 2"),
            ("result", "it must be true or false, but it is a number"),
            ("'a'", "but it is a string"),
            ("nosuch(result)", "nosuch"),
            ("a{b: 1}", "messages (a) are not supported"),
            ("result.all(a, result.all(b, result.all(c, c > 1.0)))", "more than 2 loops"),
        ] {
            let error = check(text).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
        }
        assert!(check(&format!("{}result > 1{}", "(".repeat(33), ")".repeat(33))).unwrap_err().contains("more than 32 brackets"));
        assert!(check(&" ".repeat(1025)).unwrap_err().contains("longer than 1024"));
    }

    /// The deepest expressions within the bounds fit into the stack; without the thread they would end the process.
    #[test]
    fn deep_expressions_do_not_end_the_process() {
        for text in [
            format!("{}result > 1.0{}", "(".repeat(32), ")".repeat(32)),
            format!("{}result > 1.0{}", "!(".repeat(32), ")".repeat(32)),
            format!("{}1{} == []", "[".repeat(32), "]".repeat(32)),
            format!("1{} > 1", "+1".repeat(500)),
            format!("result{} > 1.0", ".a".repeat(500)),
            format!("{}true", "true?true:".repeat(100)),
            format!("{}true", "!".repeat(1000)),
            format!("true{}", "||true".repeat(160)),
        ] {
            drop(check(&text));
            drop(holds(&text, &[2.0]));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]
        #[test]
        fn any_text_is_an_answer_or_an_error(text in "\\PC{0,30}|[ra-c0-9.()\\[\\]{}<>=&|!?:+*/'\" ,-]{0,40}") {
            drop(check(&text));
        }
    }
}

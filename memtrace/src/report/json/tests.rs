use serde_json::{Value, json};

use super::{JsonOptions, write_json};
use crate::{
    profile::Profile,
    report::{
        Filter, Metric,
        testing::{Builder, lossy, server},
    },
};

fn report(profile: &Profile, options: &JsonOptions) -> Value {
    let mut out = Vec::new();
    write_json(profile, options, &mut out).unwrap();
    assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
    serde_json::from_slice(&out).unwrap()
}

/// Checks a value against the part of JSON Schema that the schema file uses, and that every field
/// is in the schema. Panics on a keyword that it does not know.
fn validate(schema: &Value, value: &Value, at: &str) {
    for (keyword, rule) in schema.as_object().unwrap() {
        match keyword.as_str() {
            "$schema" | "title" => {}
            "const" => assert_eq!(value, rule, "{at}"),
            "enum" => assert!(rule.as_array().unwrap().contains(value), "{at}: {value}"),
            "type" => {
                let is = |name: &Value| match name.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "integer" => value.is_u64() || value.is_i64(),
                    "null" => value.is_null(),
                    other => panic!("unknown type {other}"),
                };
                let ok = rule.as_array().map_or_else(|| is(rule), |list| list.iter().any(is));
                assert!(ok, "{at}: {value} is not {rule}");
            }
            "minimum" => {
                let low = value.as_u64().is_some_and(|number| number < rule.as_u64().unwrap());
                assert!(!low && value.as_i64().is_none_or(|n| n >= 0), "{at}: {value}");
            }
            "pattern" => {
                let regex = regex::Regex::new(rule.as_str().unwrap()).unwrap();
                assert!(regex.is_match(value.as_str().unwrap()), "{at}: {value}");
            }
            "required" => {
                for field in rule.as_array().unwrap() {
                    assert!(value.get(field.as_str().unwrap()).is_some(), "{at}: no {field}");
                }
            }
            "properties" => {
                for (field, value) in value.as_object().unwrap() {
                    let rule = rule.get(field);
                    let rule = rule.unwrap_or_else(|| panic!("{at}.{field} is not in the schema"));
                    validate(rule, value, &format!("{at}.{field}"));
                }
            }
            "items" => {
                for (index, value) in value.as_array().unwrap().iter().enumerate() {
                    validate(rule, value, &format!("{at}[{index}]"));
                }
            }
            other => panic!("the schema's '{other}' is not checked by this test"),
        }
    }
}

fn schema() -> Value {
    serde_json::from_str(include_str!("../../../../docs/report.schema.json")).unwrap()
}

#[test]
fn reports_follow_the_schema() {
    for profile in [server(), lossy(), Profile::default()] {
        for sort in Metric::ALL {
            let options = JsonOptions {
                sort,
                limit: Some(3),
                filter: Some(Filter::new("main")),
                min_bytes: 1,
            };
            validate(&schema(), &report(&profile, &options), "$");
        }
        validate(&schema(), &report(&profile, &JsonOptions::default()), "$");
    }
}

#[test]
#[should_panic(expected = "$.sites[0].frames[0].address")]
fn the_schema_check_finds_a_wrong_field() {
    let mut value = report(&server(), &JsonOptions::default());
    value["sites"][0]["frames"][0]["address"] = json!("0X12");
    validate(&schema(), &value, "$");
}

#[test]
fn the_documentation_names_every_field() {
    let text = include_str!("../../../../docs/report-json.md");
    fn fields(schema: &Value, out: &mut Vec<String>) {
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            for (name, schema) in properties {
                out.push(name.clone());
                fields(schema, out);
            }
        }
        if let Some(items) = schema.get("items") {
            fields(items, out);
        }
    }
    let mut names = Vec::new();
    fields(&schema(), &mut names);
    for name in names {
        assert!(text.contains(&format!("`{name}`")), "docs/report-json.md does not name {name}");
    }
}

#[test]
fn all_stacks_come_sorted_with_all_their_frames() {
    let value = report(&server(), &JsonOptions::default());
    let sites = value["sites"].as_array().unwrap();
    assert_eq!(sites.len(), 7);
    let live: Vec<u64> = sites.iter().map(|s| s["live_bytes"].as_u64().unwrap()).collect();
    assert!(live.is_sorted_by(|a, b| a >= b), "{live:?}");
    assert_eq!(
        sites[0],
        json!({
            "frames": [
                {"function": "buffer_new", "file": "src/buffer.h", "line": 7,
                 "module": "/usr/bin/server", "address": "0x1200", "inlined": true},
                {"function": "read_body", "file": "src/http.c", "line": 80,
                 "module": "/usr/bin/server", "address": "0x1200", "inlined": false},
                {"function": "handle", "file": "src/http.c", "line": 120,
                 "module": "/usr/bin/server", "address": "0x1300", "inlined": false},
                {"function": "main", "file": "src/main.c", "line": 10,
                 "module": "/usr/bin/server", "address": "0x1100", "inlined": false},
            ],
            "alloc_calls": 1000, "alloc_bytes": 1 << 20, "free_calls": 400,
            "freed_bytes": 400 << 10, "live_blocks": 600, "live_bytes": 624 << 10,
            "peak_blocks": 780, "peak_bytes": 800 << 10, "temporary_calls": 100,
            "temporary_bytes": 100 << 10, "failed_calls": 2, "end": "complete", "pid": 123,
        })
    );
    let new = &sites[1]["frames"][0]["function"];
    assert_eq!(new, "operator new(unsigned long)", "wrappers are frames like others");
}

#[test]
fn what_is_not_known_is_null() {
    let value = report(&server(), &JsonOptions { sort: Metric::Calls, ..JsonOptions::default() });
    let sites = value["sites"].as_array().unwrap();
    let find = |address: &str| {
        let mut frames = sites.iter().flat_map(|site| site["frames"].as_array().unwrap());
        frames.find(|frame| frame["address"] == address).unwrap()
    };
    assert_eq!(
        *find("0x7f0000001234"),
        json!({"function": null, "file": null, "line": null, "module": null,
               "address": "0x7f0000001234", "inlined": false})
    );
    assert_eq!(find("0x5000")["function"], "inflate");
    assert_eq!(find("0x5000")["file"], Value::Null);
    let lost = sites.iter().find(|site| site["frames"] == json!([])).unwrap();
    assert_eq!(lost["live_bytes"], 16);
    assert!(sites.iter().any(|site| site["end"] == "no_unwind_info"));
}

#[test]
fn limit_filter_and_minimum_leave_the_totals_alone() {
    let whole = report(&server(), &JsonOptions::default());
    let options = JsonOptions {
        sort: Metric::Allocated,
        limit: Some(1),
        filter: Some(Filter::new("server")),
        min_bytes: 2500,
    };
    let part = report(&server(), &options);
    assert_eq!(part["totals"], whole["totals"]);
    assert_eq!(part["sites"].as_array().unwrap().len(), 1);
    assert_eq!(
        part["selection"],
        json!({"sort": "allocated", "filter": "server", "min_bytes": 2500, "limit": 1,
               "matching": 4, "stacks": 7})
    );
}

#[test]
fn hostile_names_are_kept_exactly() {
    let name = format!("<script>\"';\n\x1b\u{202e}{}", "x".repeat(10_000));
    let mut b = Builder::new();
    let f = b.location(&name, 1, &[(&name, &name, 1)]);
    b.stack(&[f], 1, 1);
    let value = report(&b.finish(), &JsonOptions::default());
    for field in ["function", "file", "module"] {
        assert_eq!(value["sites"][0]["frames"][0][field], name);
    }
}

#[test]
fn sizes_have_their_limits() {
    let mut profile = Profile::default();
    profile.sizes.calls = vec![1; 70];
    let value = report(&profile, &JsonOptions::default());
    let sizes = value["sizes"].as_array().unwrap();
    assert_eq!(sizes.len(), 65);
    assert_eq!(sizes[0], json!({"min": 0, "max": 0, "calls": 1}));
    assert_eq!(sizes[1], json!({"min": 1, "max": 1, "calls": 1}));
    assert_eq!(sizes[11], json!({"min": 1024, "max": 2047, "calls": 1}));
    assert_eq!(sizes[64], json!({"min": 1u64 << 63, "max": u64::MAX, "calls": 1}));
}

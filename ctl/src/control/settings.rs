//! Settings by their key in the file.

use dataplane::service::{ServerIds, SourceRoutes};
use toml::{Table, Value};

use super::difference;
use crate::{admin::AdminError, config::Config};

/// What errors would call the text that is read, had they a place in it.
const SOURCE: &str = "set";

/// Keys whose values are text: what is no TOML string is meant literally, as an interface named `100`.
const TEXT: [&str; 5] = [
    "balancer.hash",
    "balancer.encapsulation",
    "balancer.source_v4",
    "balancer.source_v6",
    "health_check_path.interface",
];

/// Keys that `set` and `unset` take: those that change while packets flow. The next hop is not among
/// them: whoever follows it looks at the file.
pub(crate) fn keys() -> Vec<&'static str> {
    difference::settings(&Config::default())
        .into_iter()
        .map(|(key, ..)| key)
        .filter(|key| !key.starts_with("interface."))
        .collect()
}

/// The configuration with another value of a key, or without one. The value is TOML or, if it is none or
/// the key's values are text, a string.
pub(super) fn with(config: &Config, key: &str, value: Option<&str>) -> Result<Config, AdminError> {
    let keys = keys();
    let known = keys.iter().find(|known| **known == key);
    let (section, name) = known
        .and_then(|known| known.split_once('.'))
        .ok_or_else(|| {
            // Without its section, as `encapsulation`.
            let whole = keys.iter().find(|known| {
                known
                    .rsplit_once('.')
                    .is_some_and(|(_, name)| name == key)
            });
            if let Some(whole) = whole {
                return AdminError::new(
                    "key",
                    format!("`{key}` is no setting that can be changed here"),
                    format!("write it with its section: {whole}"),
                );
            }
            AdminError::new(
                "key",
                format!("`{key}` is no setting that can be changed here"),
                format!(
                    "give one of {}; `interface.next_hop_mac` changes by `reload`, others are read at the \
                     start",
                    keys.join(", ")
                ),
            )
        })?;
    let settings = Config {
        vips: Vec::new(),
        server_ids: ServerIds::default(),
        source_routes: SourceRoutes::default(),
        decap: Vec::new(),
        health_checks: Vec::new(),
        ..config.clone()
    };
    let unreadable = |error: toml::de::Error| {
        AdminError::new(
            key,
            format!("the running configuration cannot be read: {error}"),
            "report this error",
        )
    };
    let mut file: Table = settings.to_toml().parse().map_err(unreadable)?;
    if let Value::Table(section) = file
        .entry(section)
        .or_insert_with(|| Value::Table(Table::new()))
    {
        match value {
            Some(value) => section.insert(name.to_owned(), read(key, value)),
            None => section.remove(name),
        };
    }
    let changed = Config::parse(&file.to_string(), SOURCE).map_err(|error| {
        let problems = error.problems.iter();
        let errors = problems.map(|problem| {
            AdminError::new(
                &problem.field,
                problem.problem.clone(),
                problem.remedy.clone(),
            )
        });
        AdminError::all(errors)
            .unwrap_or_else(|| AdminError::new(key, error.to_string(), "give another value"))
    })?;
    Ok(Config {
        vips: config.vips.clone(),
        server_ids: config.server_ids.clone(),
        source_routes: config.source_routes.clone(),
        decap: config.decap.clone(),
        health_checks: config.health_checks.clone(),
        ..changed
    })
}

fn read(key: &str, value: &str) -> Value {
    let text = || Value::String(value.to_owned());
    match value.parse::<Value>() {
        Ok(read) if read.is_str() && value.ends_with(['"', '\'']) => read,
        // No other value of a setting has a `#` in it, but a comment behind it would.
        Ok(read) if !read.is_str() && !value.contains('#') && !TEXT.contains(&key) => read,
        _ => text(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_toml_or_a_string() {
        for text in ["100", "true", "inf", "1e3", "[a]", "2001-01-01", "hc0"] {
            let literal = Value::String(text.to_owned());
            let key = "health_check_path.interface";
            assert_eq!(read(key, text), literal, "{text}");
            assert_eq!(read(key, &format!("\"{text}\"")), literal, "{text}");
        }
        for (text, value) in [
            ("1500 # x", Value::String("1500 # x".to_owned())),
            ("1500", Value::Integer(1500)),
            ("true", Value::Boolean(true)),
            ("\"gue\"", Value::String("gue".to_owned())),
            ("gue", Value::String("gue".to_owned())),
            ("192.0.2.1", Value::String("192.0.2.1".to_owned())),
            ("2001:db8::1", Value::String("2001:db8::1".to_owned())),
            ("::1", Value::String("::1".to_owned())),
            ("1\nother = 2", Value::String("1\nother = 2".to_owned())),
            ("", Value::String(String::new())),
        ] {
            assert_eq!(read("balancer.max_frame", text), value, "{text}");
        }
    }

    #[test]
    fn an_interface_may_have_a_name_that_is_toml() {
        let key = "health_check_path.interface";
        for name in ["100", "true"] {
            let config = with(&Config::default(), key, Some(name)).expect(name);
            assert_eq!(config.health_check_path.interface.as_deref(), Some(name));
        }
        let error = with(&Config::default(), "balancer.max_frame", Some("1500 # x")).unwrap_err();
        assert!(error.to_string().contains("1500 # x"), "{error}");
    }

    #[test]
    fn keys_of_text_are_those_that_files_have_in_quotes() {
        let all = "[balancer]\nsource_v4 = \"192.0.2.1\"\nsource_v6 = \"2001:db8::1\"\n\
                   [health_check_path]\ninterface = \"hc0\"\nmax_frame = 1400\n";
        let config = Config::parse(all, "lb.toml").expect("valid");
        let file: Table = config.to_toml().parse().expect("TOML");
        for key in keys() {
            let (section, name) = key.split_once('.').expect("a section");
            let value = file.get(section).and_then(|section| section.get(name));
            let is_text = value.is_some_and(Value::is_str);
            assert_eq!(is_text, TEXT.contains(&key), "{key}: {value:?}");
        }
    }

    #[test]
    fn every_key_can_be_read_back() {
        for key in keys() {
            let config = with(&Config::default(), key, None).expect(key);
            assert_eq!(config, Config::default(), "{key}");
        }
    }
}

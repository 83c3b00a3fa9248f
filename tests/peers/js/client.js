// One call with grpc-js, as JSON: node client.js ADDRESS FOLDER-OF-PROTOS '{"method": "SayHello", …}'
//
// The call: method, requests (each sent as it stands), metadata, timeout (ms), cancelAfter (cancel once
// that many responses have come), tls (paths: ca, cert, key; and name, the server's). Printed: responses,
// code, details, metadata and trailers.
"use strict";

const fs = require("fs");
const path = require("path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, protos, text] = process.argv.slice(2);
const call = JSON.parse(text);

const definition = loader.loadSync(path.join("greeter", "v1", "greeter.proto"), {
  includeDirs: [protos],
  longs: Number,
});
const { Greeter } = grpc.loadPackageDefinition(definition).greeter.v1;
const { tls } = call;
const [ca, key, cert] = tls ? [tls.ca, tls.key, tls.cert].map((file) => fs.readFileSync(file)) : [];
const client = tls
  ? new Greeter(address, grpc.credentials.createSsl(ca, key, cert), {
      "grpc.ssl_target_name_override": tls.name,
      "grpc.default_authority": tls.name,
    })
  : new Greeter(address, grpc.credentials.createInsecure());

const metadata = new grpc.Metadata();
for (const [key, value] of Object.entries(call.metadata || {})) metadata.set(key, value);
const options = call.timeout ? { deadline: Date.now() + call.timeout } : {};

const responses = [];
const result = { responses, code: "OK", details: "", metadata: {}, trailers: {} };

function finish(status) {
  result.code = grpc.status[status.code];
  result.details = status.details;
  result.trailers = status.metadata.getMap();
  console.log(JSON.stringify(result));
  client.close();
}

const { requestStream, responseStream } = Greeter.service[call.method];
const unaryEnd = (error, response) => {
  if (!error) responses.push(response);
};
const first = requestStream ? [] : [call.requests[0]];
const last = responseStream ? [] : [unaryEnd];
const running = client[call.method](...first, metadata, options, ...last);

running.on("metadata", (received) => (result.metadata = received.getMap()));
running.on("status", finish);
if (responseStream) {
  running.on("data", (response) => {
    responses.push(response);
    if (responses.length === call.cancelAfter) running.cancel();
  });
  running.on("error", () => {}); // told by the status
}
if (requestStream) {
  for (const request of call.requests) running.write(request);
  running.end();
}

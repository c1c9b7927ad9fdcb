-- For wrk: POST the files named behind "--" in turn, as Promtail does; print what came of it.

local requests = {}
local turn = 0

function init(args)
   for i = 1, #args do
      local file = assert(io.open(args[i], "rb"))
      local headers = {["Content-Type"] = "application/x-protobuf"}
      requests[i] = wrk.format("POST", "/loki/api/v1/push", headers, file:read("*a"))
      file:close()
   end
end

function request()
   turn = turn % #requests + 1
   return requests[turn]
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      '{"requests": %d, "seconds": %.6f, "failed": %d, "p50_ms": %.3f, "p99_ms": %.3f}\n',
      summary.requests, summary.duration / 1e6,
      errors.connect + errors.read + errors.write + errors.status + errors.timeout,
      latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end

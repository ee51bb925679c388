// What if: sliders for the data shares, and what the run's own predictor says of them.
// The predictor is that of nemo_demix/search/what_if.py; each kind of model below is one of prediction/portable.py.
const whatIf = (() => {
  const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0)).buffer;
  const doubles = text => new Float64Array(bytes(text));
  const shorts = text => new Int16Array(bytes(text));
  const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);

  const FEATURES = {
    weights: w => w,
    linear: w => w,
    roots: w => w.map(Math.sqrt),
    square_roots: w => [...w, ...w.map(Math.sqrt)],
    quadratic: w => [...w, ...w.flatMap((one, i) => w.slice(i + 1).map(other => one * other))],
  };

  // Each gives a function from merge weights to a score; rows are the scored mixtures.
  const MODELS = {
    linear: model => w => model.level + dot(FEATURES[model.features](w), model.slopes),
    law: model => w => {
      const standard = model.constant + model.sign * Math.exp(Math.min(dot(w, model.exponents), 50));
      return model.mean + model.scale * Math.min(Math.max(standard, model.bounds[0]), model.bounds[1]);
    },
    process: (model, rows) => {
      const scaled = w => FEATURES[model.features](w).map((value, c) => value / model.scale[c]);
      const solved = doubles(model.solved), near = rows.map(scaled);
      return w => {
        const here = scaled(w);
        let sum = 0;
        near.forEach((row, m) => {
          if (solved[m]) sum += solved[m] * Math.exp(-0.5 * row.reduce((d, value, c) => d + (value - here[c]) ** 2, 0));
        });
        return model.mean + model.unit * sum;
      };
    },
    trees: model => {
      const [nodes, leaves, features, left, right] =
        ["nodes", "leaves", "features", "left", "right"].map(key => shorts(model[key]));
      const thresholds = doubles(model.thresholds), values = doubles(model.values);
      return w => {
        let sum = 0, firstNode = 0, firstLeaf = 0;
        nodes.forEach((count, tree) => {
          let node = count ? 0 : -1; // below 0: a leaf
          while (node >= 0) {
            const at = firstNode + node;
            node = w[features[at]] <= thresholds[at] ? left[at] : right[at];
          }
          sum += values[firstLeaf - 1 - node];
          firstNode += count;
          firstLeaf += leaves[tree];
        });
        return sum;
      };
    },
    sum: (model, rows) => {
      const members = model.models.map(one => MODELS[one.kind](one, rows));
      return w => dot(members.map(member => member(w)), model.weights);
    },
  };

  // A predictor gives a list: the scores by name, and then the same of each refit or resample.
  function fitted(predictor, numComponents) {
    const flat = doubles(predictor.rows), rows = [];
    for (let start = 0; start < flat.length; start += numComponents) rows.push([...flat.slice(start, start + numComponents)]);
    const all = [predictor.models, ...predictor.refits].map(models =>
      Object.entries(models).map(([name, model]) => [name, MODELS[model.kind](model, rows)]));
    return w => all.map(models => Object.fromEntries(models.map(([name, model]) => [name, model(w)])));
  }

  function mixed(predictor, numComponents) {
    const scores = Object.entries(predictor.scores).map(([name, score]) => {
      const logs = new Float32Array(bytes(score.logprobs)), count = logs.length / numComponents;
      const largest = Float64Array.from({ length: count }, (_, t) => {
        let most = -Infinity;
        for (let c = 0; c < numComponents; c++) most = Math.max(most, logs[c * count + t]);
        return most;
      });
      const ratios = Float64Array.from(logs, (value, place) => Math.exp(value - largest[place % count]));
      const lengths = new Int32Array(bytes(score.lengths)), weights = doubles(score.weights);
      return { name, largest, ratios, count, lengths, weights, draws: score.draws.map(text => new Uint8Array(bytes(text))) };
    });
    return w => {
      const found = [{}, ...scores[0].draws.map(() => ({}))];
      for (const { name, largest, ratios, count, lengths, weights, draws } of scores) {
        const bits = new Float64Array(lengths.length);
        for (let request = 0, t = 0; request < lengths.length; request++) {
          for (const end = t + lengths[request]; t < end; t++) {
            let probability = 0;
            for (let c = 0; c < numComponents; c++) if (w[c] > 0) probability += w[c] * ratios[c * count + t];
            bits[request] -= (largest[t] + Math.log(probability)) / Math.LN2;
          }
        }
        const weighted = bits.map((value, request) => value * weights[request]);
        found[0][name] = weighted.reduce((sum, value) => sum + value, 0);
        draws.forEach((drawn, number) => {
          found[number + 1][name] = weighted.reduce((sum, value, request) => sum + value * drawn[request], 0);
        });
      }
      return found;
    };
  }

  // The merge weights that stand for data shares: weights @ blend = shares. Null: none do.
  function solver(blend) {
    const size = blend.length;
    return shares => {
      const rows = shares.map((share, d) => [...blend.map(row => row[d]), share]);
      for (let c = 0; c < size; c++) {
        let best = c;
        for (let d = c + 1; d < rows.length; d++) if (Math.abs(rows[d][c]) > Math.abs(rows[best][c])) best = d;
        if (best >= rows.length || Math.abs(rows[best][c]) < 1e-12) return null;
        [rows[c], rows[best]] = [rows[best], rows[c]];
        for (let d = 0; d < rows.length; d++) {
          if (d === c) continue;
          const factor = rows[d][c] / rows[c][c];
          rows[d] = rows[d].map((value, place) => value - factor * rows[c][place]);
        }
      }
      const weights = rows.slice(0, size).map((row, c) => row[size] / row[c]);
      if (rows.slice(size).some(row => Math.abs(row[size]) > 1e-9) || weights.some(weight => weight < -1e-9)) return null;
      const kept = weights.map(weight => Math.max(weight, 0)), total = kept.reduce((sum, one) => sum + one, 0);
      return kept.map(weight => weight / total);
    };
  }

  function predictor(data) {
    const ask = (data.predictor.kind === "tokens" ? mixed : fitted)(data.predictor, data.components.length);
    return weights => ask(weights).map(scores => {
      const averages = {};
      for (const [capability, shares] of Object.entries(data.capabilities)) {
        averages[capability] = Object.entries(shares).reduce((sum, [score, share]) => sum + share * scores[score], 0);
      }
      const objective = data.objective &&
        Object.entries(data.objective).reduce((sum, [capability, weight]) => sum + weight * averages[capability], 0);
      return { averages, objective };
    });
  }

  // What a mixture does not satisfy, in the words of the recipe; empty: nothing.
  function broken(data, weights, shares) {
    if (!weights) return ["what merges of these components can stand for"];
    const found = data.rules.filter(rule => {
      const value = dot(rule.row, weights);
      return (rule.lower !== null && value < rule.lower - 1e-7) || (rule.upper !== null && value > rule.upper + 1e-7);
    }).map(rule => rule.key);
    if (data.max_kl !== null) {
      const away = shares.reduce((sum, share, d) => sum + (share > 0 ? share * Math.log(share / data.prior[d]) : 0), 0);
      if (away > data.max_kl + 1e-7) found.push(`search.constraints.max_kl=${data.max_kl}`);
    }
    return found;
  }

  // The shares after one is moved: the unlocked others in proportion; as far as constraints go, and what stopped it.
  function moved(data, solve, shares, place, wanted, locks) {
    const others = shares.map((_, d) => d).filter(d => d !== place && !locks[d]);
    const locked = shares.reduce((sum, share, d) => sum + (d !== place && locks[d] ? share : 0), 0);
    const free = others.reduce((sum, d) => sum + shares[d], 0), target = shares.slice();
    target[place] = others.length ? Math.min(Math.max(wanted, 0), 1 - locked) : 1 - locked;
    for (const d of others) {
      const left = 1 - locked - target[place];
      target[d] = free > 1e-12 ? shares[d] * left / free : left / others.length;
    }
    const between = part => shares.map((share, d) => share + part * (target[d] - share));
    const wrong = part => broken(data, solve(between(part)), between(part));
    const stopped = wrong(1);
    if (!stopped.length) return { shares: target, stopped };
    if (wrong(0).length) return { shares: target, stopped }; // a baseline may lie outside: what is wrong is said
    let low = 0, high = 1;
    for (let step = 0; step < 40; step++) {
      const middle = (low + high) / 2;
      if (wrong(middle).length) high = middle; else low = middle;
    }
    return { shares: between(low), stopped };
  }

  const quantile = (values, share) => {
    const sorted = [...values].sort((a, b) => a - b), at = share * (sorted.length - 1), low = Math.floor(at);
    return sorted[low] + (at - low) * (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]);
  };

  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const shown = (value, digits = 4, signed = false) =>
    ((signed && value > 0 ? "+" : "") + value.toFixed(digits)).replace("-", "−");

  function start(data, holder) {
    const solve = solver(data.blend), predict = predictor(data), names = data.datasets;
    const locks = names.map(() => false), asShares = mixture => names.map(name => mixture[name] || 0);
    let shares = asShares(data.mixtures.chosen), compared = "chosen";
    const said = make("p", { className: "said" });
    said.setAttribute("role", "status");
    const text = make("textarea", { readOnly: true, rows: data.override.between === "," ? 3 : names.length + 3 });
    text.setAttribute("aria-label", "This mixture as search.heuristic");
    const sliders = [], numbers = [], results = make("tbody");

    const shareRows = names.map((name, d) => {
      const slider = make("input", { type: "range", min: 0, max: 100, step: 0.1 });
      const lock = make("input", { type: "checkbox" });
      slider.setAttribute("aria-label", `share of ${name}`);
      lock.setAttribute("aria-label", `lock ${name}`);
      slider.addEventListener("input", () => {
        const found = moved(data, solve, shares, d, slider.valueAsNumber / 100, locks);
        shares = found.shares;
        show(found.stopped.length ? `Stopped by ${found.stopped.join(", ")}.` : "");
      });
      slider.addEventListener("change", () => show());
      lock.addEventListener("change", () => { locks[d] = lock.checked; slider.disabled = lock.checked; });
      sliders.push(slider);
      numbers.push(make("output"));
      return make("tr", {}, make("th", { scope: "row" }, make("bdi", { textContent: name })), make("td", {}, lock),
        make("td", {}, slider), make("td", { className: "number" }, numbers[d]));
    });

    function show(message = "") {
      const weights = solve(shares), wrong = broken(data, weights, shares);
      sliders.forEach((slider, d) => { if (document.activeElement !== slider || message) slider.value = 100 * shares[d]; });
      numbers.forEach((number, d) => { number.value = `${shown(100 * shares[d], 1)} %`; number.dataset.value = shares[d]; });
      said.textContent = message || (wrong.length ? `Outside of ${wrong.join(", ")}.` : "");
      text.value = data.override.before +
        names.map((_, d) => data.override.names[d] + Number(shares[d].toFixed(9))).join(data.override.between) + data.override.after;
      const base = solve(asShares(data.mixtures[compared]));
      results.replaceChildren(...(weights ? rows(predict(weights), base && predict(base)) : []));
    }

    function rows(here, there) {
      const kinds = [...Object.keys(data.capabilities), ...(data.objective ? [null] : [])];
      return kinds.map(capability => {
        const value = one => capability === null ? one.objective : one.averages[capability];
        const sign = capability !== null && data.higher_is_better[capability] ? -1 : 1;
        const gaps = there && here.map((one, i) => sign * (value(one) - value(there[i])));
        let low, high;
        if (gaps && gaps.length > 2) [low, high] = [0.05, 0.95].map(share => quantile(gaps.slice(1), share));
        else if (gaps && data.errors && capability !== null) {
          [low, high] = [-1, 1].map(side => gaps[0] + side * 1.96 * Math.SQRT2 * data.errors[capability]);
        }
        const cells = [
          make("th", { scope: "row" }, make("bdi", { textContent: capability ?? "objective (lower is better)" })),
          make("td", { className: "number", textContent: shown(value(here[0])) }),
          make("td", { className: "number", textContent: gaps ? shown(gaps[0], 4, true) : "—" }),
          make("td", { className: "number",
            textContent: low === undefined ? "not known" : `${shown(low, 4, true)} to ${shown(high, 4, true)}` }),
          make("td", { textContent: capability === null ? "" : data.units[capability] }),
        ];
        cells[1].dataset.value = value(here[0]);
        if (low !== undefined) [cells[3].dataset.low, cells[3].dataset.high] = [low, high];
        if (low !== undefined && high < 0) cells[2].classList.add("better");
        if (low !== undefined && low > 0) cells[2].classList.add("worse");
        return make("tr", {}, ...cells);
      });
    }

    const numeric = new Set(["%", "score", "difference (negative is better)", "interval of the difference"]);
    const head = (...titles) => make("thead", {}, make("tr", {}, ...titles.map(title =>
      make("th", { scope: "col", textContent: title, className: numeric.has(title) ? "number" : "" }))));
    const choice = make("select", {}, ...Object.keys(data.mixtures).map(name => make("option", { value: name, textContent: name })));
    choice.addEventListener("change", () => { compared = choice.value; show(); });
    const buttons = Object.entries(data.mixtures).map(([name, mixture]) => {
      const button = make("button", { type: "button" }, "Set to ", make("bdi", { textContent: name }));
      button.addEventListener("click", () => { shares = asShares(mixture); show(); });
      return button;
    });
    const copy = make("button", { type: "button", textContent: "Copy as search.heuristic" });
    copy.addEventListener("click", async () => {
      text.select();
      try { await navigator.clipboard.writeText(text.value); } catch { document.execCommand("copy"); }
      said.textContent = "Copied.";
    });
    holder.replaceChildren(
      make("p", {}, ...buttons),
      make("div", { className: "scroll" }, make("table", { id: "what-if-shares" },
        head("dataset", "lock", "share of the data", "%"), make("tbody", {}, ...shareRows))),
      said,
      make("p", {}, make("label", {}, "Compare with ", choice)),
      make("div", { className: "scroll" }, make("table", { id: "what-if-scores" },
        head("predicted", "score", "difference (negative is better)", "interval of the difference", "unit"), results)),
      make("p", {}, copy), text);
    holder.hidden = false;
    show();
  }

  const found = typeof document === "undefined" ? null : document.getElementById("what-if-data");
  if (found) start(JSON.parse(found.textContent), document.getElementById("what-if"));
  return { predictor, solver, moved, broken };
})();

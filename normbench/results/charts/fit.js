// Fits the specification of a chart to the width of its container, in pixels. The panels of a chart stand in as many
// columns as have room.
function fitted(spec, width) {
  const params = spec.params.map(each => each.name === "wide" ? {...each, value: width} : each);
  if (!spec.concat) return {...spec, params, width};
  const columns = Math.max(1, Math.min(spec.columns, Math.floor(width / (spec.usermeta.sides + 180))));
  const panel = Math.max(100, Math.floor(width / columns) - spec.usermeta.sides - 20);
  return {...spec, params, columns, concat: spec.concat.map(each => ({...each, width: panel}))};
}
